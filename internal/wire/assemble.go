package wire

// head is a request head as an engine has read it: split into its parts, not
// yet understood.
type head struct {
	proto          Proto
	method, target string
	scheme         string // what the connection implies, or :scheme
	// authority is :authority, or what stands for it; host holds the Host
	// fields that came beside it.
	authority string
	host      []string
	fields    []Field // including those of one hop
	hasBody   bool
}

// request puts the head into canonical form. The result always names what could
// be told; Refused is set if that is not enough.
func (h *head) request() *Request {
	r := &Request{Proto: h.proto, Method: h.method, Scheme: h.scheme, Authority: h.authority, Path: h.target}
	if ref := h.fill(r); ref != nil {
		r.Refused = ref
		r.Path = printable(r.Path)
		r.Authority = printable(r.Authority)
		r.Method = printable(r.Method)
	}
	return r
}

func (h *head) fill(r *Request) *Refusal {
	if ref := h.checkLimits(); ref != nil {
		return ref
	}
	if ref := checkMethod(h.method); ref != nil {
		return ref
	}
	t, ref := parseTarget(h.method, h.target)
	if ref != nil {
		return ref
	}
	r.Path, r.Query, r.HasQuery = t.path, t.query, t.hasQuery
	if t.scheme != "" {
		r.Scheme, r.Authority = t.scheme, t.authority
	} else if ref := h.fillAuthority(r); ref != nil {
		return ref
	}
	return h.fillHeader(r)
}

func (h *head) checkLimits() *Refusal {
	total := 0
	for _, f := range h.fields {
		n := len(f.Name) + len(f.Value)
		if n > MaxFieldBytes {
			return &Refusal{Status: 431, Reason: "header field too long"}
		}
		total += n
	}
	if len(h.fields) > MaxFields || total > MaxHeaderBytes {
		return &Refusal{Status: 431, Reason: "too many header fields"}
	}
	return nil
}

func checkMethod(m string) *Refusal {
	if m == "CONNECT" || m == "TRACE" {
		return &Refusal{Status: 405, Reason: "method not allowed"}
	}
	if !isToken(m) {
		return bad("invalid method")
	}
	return nil
}

// fillAuthority requires that Host, where it stands beside :authority, says the
// same (RFC 9113 section 8.3.1).
func (h *head) fillAuthority(r *Request) *Refusal {
	if h.authority == "" {
		if h.proto == HTTP10 {
			return nil
		}
		return bad("no authority")
	}
	canonical, ref := CanonicalAuthority(h.authority)
	if ref != nil {
		return ref
	}
	r.Authority = canonical
	for _, host := range h.host {
		if c, ref := CanonicalAuthority(host); ref != nil || c != canonical {
			return bad("host and authority differ")
		}
	}
	return nil
}

// fillHeader keeps the end-to-end fields and understands those of this hop.
func (h *head) fillHeader(r *Request) *Refusal {
	connection := valuesOf(h.fields, "Connection")
	kept := make([]Field, 0, len(h.fields)+4) // room for what the pipeline sets
	for _, f := range h.fields {
		if !isToken(f.Name) || !validValue(f.Value) {
			return bad("invalid header field")
		}
		if !isHopByHop(f.Name) && !EqualName(f.Name, "Expect") && !listedBy(connection, f.Name) {
			kept = append(kept, f)
		}
	}
	r.Header = Header{fields: kept}
	for _, te := range valuesOf(h.fields, "TE") {
		r.TETrailers = r.TETrailers || hasToken(te, "trailers")
	}
	return h.fillUpgrade(r, connection)
}

// fillUpgrade lets nothing but WebSocket through, and that only where a server
// cannot take it for the beginning of something else: no body before the
// switch. Other upgrades are a wish that may be ignored (RFC 9110 section 7.8).
func (h *head) fillUpgrade(r *Request, connection []string) *Refusal {
	if h.proto != HTTP11 || !listedBy(connection, "Upgrade") {
		return nil
	}
	for _, u := range valuesOf(h.fields, "Upgrade") {
		if !EqualName(u, "websocket") {
			continue
		}
		if h.method != "GET" || h.hasBody {
			return bad("upgrade with a body or a method other than GET")
		}
		r.Upgrade = "websocket"
	}
	return nil
}

func valuesOf(fields []Field, name string) []string {
	var out []string
	for _, f := range fields {
		if EqualName(f.Name, name) {
			out = append(out, f.Value)
		}
	}
	return out
}

// isToken reports whether s is a token (RFC 9110 section 5.6.2).
func isToken(s string) bool {
	if s == "" {
		return false
	}
	for i := range len(s) {
		if !tokenByte[s[i]] {
			return false
		}
	}
	return true
}

var tokenByte = func() (t [256]bool) {
	for c := '0'; c <= '9'; c++ {
		t[c] = true
	}
	for c := 'a'; c <= 'z'; c++ {
		t[c], t[c-0x20] = true, true
	}
	for _, c := range "!#$%&'*+-.^_`|~" {
		t[c] = true
	}
	return t
}()

// validValue reports whether s can be a field value (RFC 9110 section 5.5).
func validValue(s string) bool {
	for i := range len(s) {
		if c := s[i]; c < ' ' && c != '\t' || c == 0x7f {
			return false
		}
	}
	return true
}

// printable makes what a peer sent harmless for logs, and short.
func printable(s string) string {
	const most = 200
	if len(s) > most {
		s = s[:most]
	}
	out := []byte(s)
	for i, c := range out {
		if c < ' ' || c >= 0x7f {
			out[i] = '?'
		}
	}
	return string(out)
}

// ValidField reports whether name and value can be sent as a field of a Header
// (RFC 9110 section 5).
func ValidField(name, value string) bool { return isToken(name) && validValue(value) }
