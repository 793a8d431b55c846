package hbone

import "golang.org/x/net/http2/hpack"

// Names of the header fields of a CONNECT and of the answer to it.
const (
	headerTraceparent   = "traceparent"
	headerTracestate    = "tracestate"
	headerBaggage       = "baggage"
	headerForwarded     = "forwarded"
	headerSource        = "towpath-source-identity"
	headerTraceresponse = "traceresponse"
	headerReason        = "towpath-reason"
)

// Header is what a CONNECT says beside its authority. Empty fields are not
// sent. As received it is the peer's word: nothing in it has been checked.
type Header struct {
	// Traceparent and Tracestate are W3C Trace Context.
	Traceparent, Tracestate string
	// Baggage describes the source workload (W3C Baggage).
	Baggage string
	// Forwarded tells the client's own address (RFC 7239); see FormatForwarded.
	Forwarded string
	// Source is the SPIFFE ID of the client for which a waypoint speaks. Who
	// receives it must ask whether the peer may speak for others.
	Source string
}

// ResponseHeader is what the answer to a CONNECT says beside its status.
type ResponseHeader struct {
	// Baggage describes the destination workload.
	Baggage string
	// Traceresponse is the span context of the tunnel at the server, in the
	// form of a traceparent.
	Traceresponse string
	// Reason says in a few words why the CONNECT was refused. Reject sets it.
	Reason string
}

func (h Header) fields() []hpack.HeaderField {
	return present(
		hpack.HeaderField{Name: headerTraceparent, Value: h.Traceparent},
		hpack.HeaderField{Name: headerTracestate, Value: h.Tracestate},
		hpack.HeaderField{Name: headerBaggage, Value: h.Baggage},
		hpack.HeaderField{Name: headerForwarded, Value: h.Forwarded},
		hpack.HeaderField{Name: headerSource, Value: h.Source},
	)
}

func (h ResponseHeader) fields() []hpack.HeaderField {
	return present(
		hpack.HeaderField{Name: headerBaggage, Value: h.Baggage},
		hpack.HeaderField{Name: headerTraceresponse, Value: h.Traceresponse},
		hpack.HeaderField{Name: headerReason, Value: h.Reason},
	)
}

// present leaves out empty fields. What changes with every tunnel is kept out
// of the peer's compression table, where it would only push out the rest.
func present(all ...hpack.HeaderField) []hpack.HeaderField {
	out := all[:0]
	for _, f := range all {
		if f.Value == "" {
			continue
		}
		f.Sensitive = f.Name != headerBaggage && f.Name != headerSource
		out = append(out, f)
	}
	return out
}

// parseHeader picks the known fields. Of a field that occurs twice the first
// counts for what names one thing, so that nothing can be appended to it.
func parseHeader(fields []hpack.HeaderField) Header {
	var h Header
	for _, f := range fields {
		switch f.Name {
		case headerTraceparent:
			setOnce(&h.Traceparent, f.Value)
		case headerTracestate:
			setOnce(&h.Tracestate, f.Value)
		case headerBaggage:
			setOnce(&h.Baggage, f.Value)
		case headerForwarded:
			setOnce(&h.Forwarded, f.Value)
		case headerSource:
			setOnce(&h.Source, f.Value)
		}
	}
	return h
}

func parseResponseHeader(fields []hpack.HeaderField) ResponseHeader {
	var h ResponseHeader
	for _, f := range fields {
		switch f.Name {
		case headerBaggage:
			setOnce(&h.Baggage, f.Value)
		case headerTraceresponse:
			setOnce(&h.Traceresponse, f.Value)
		case headerReason:
			setOnce(&h.Reason, f.Value)
		}
	}
	return h
}

func setOnce(field *string, value string) {
	if *field == "" {
		*field = value
	}
}
