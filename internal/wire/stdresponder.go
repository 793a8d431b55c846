package wire

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"strconv"
	"sync"
)

// stdResponder is the Responder over net/http.
type stdResponder struct {
	conn context.Context
	w    http.ResponseWriter
	r    *http.Request
	rc   *http.ResponseController

	// last says that the client may have sent more in the belief that it is
	// something else than the next request.
	last bool

	mu    sync.Mutex // Inform runs beside Send
	sent  bool
	abort bool
}

var errSentTwice = errors.New("response sent twice")

// Inform implements Responder.
func (s *stdResponder) Inform(status int, h *Header) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.sent || status <= 101 || status > 199 || !s.r.ProtoAtLeast(1, 1) {
		return
	}
	out := s.w.Header()
	addToStd(out, h)
	s.w.WriteHeader(status)
	clear(out)
}

// Send implements Responder.
func (s *stdResponder) Send(resp *Response) (Sent, error) {
	defer resp.Close()
	s.mu.Lock()
	if s.sent {
		s.mu.Unlock()
		return Sent{}, errSentTwice
	}
	s.sent = true
	s.mu.Unlock()
	if resp.Status == http.StatusSwitchingProtocols {
		return s.sendTunnel(resp)
	}
	s.sendHead(resp)
	n, err := s.sendBody(resp)
	s.abort = err != nil
	return Sent{Body: n}, err
}

func (s *stdResponder) sendHead(resp *Response) {
	out := s.w.Header()
	addToStd(out, &resp.Header)
	// A nil value keeps net/http from inventing one.
	for _, name := range []string{"Date", "Content-Type"} {
		if _, ok := out[name]; !ok {
			out[name] = nil
		}
	}
	if resp.ContentLength >= 0 && resp.Status >= 200 && resp.Status != http.StatusNoContent {
		out["Content-Length"] = []string{strconv.FormatInt(resp.ContentLength, 10)}
	}
	if s.last {
		out["Connection"] = []string{"close"}
	}
	if resp.Trailer != nil {
		for name := range resp.Trailer.All() {
			out.Add("Trailer", name)
		}
	}
	s.w.WriteHeader(resp.Status)
}

// sendBody copies the body as it arrives. What is whole already is left to
// net/http to send together with the head; a response without body stays a head
// that ends the stream, as gRPC's trailers-only answers must.
func (s *stdResponder) sendBody(resp *Response) (int64, error) {
	if resp.Body == nil {
		return 0, nil
	}
	if resp.ContentLength < 0 {
		if err := s.rc.Flush(); err != nil {
			return 0, err
		}
	}
	buf := copyBuffers.Get().(*[]byte)
	defer copyBuffers.Put(buf)
	var total int64
	for {
		n, err := resp.Body.Read(*buf)
		if n > 0 {
			if _, werr := s.w.Write((*buf)[:n]); werr != nil {
				return total, werr
			}
			total += int64(n)
			if total != resp.ContentLength {
				if ferr := s.rc.Flush(); ferr != nil {
					return total, ferr
				}
			}
		}
		if err == io.EOF {
			s.sendTrailer(resp.Trailer)
			return total, nil
		}
		if err != nil {
			return total, err
		}
	}
}

func (s *stdResponder) sendTrailer(t *Header) {
	if t == nil {
		return
	}
	out := s.w.Header()
	for name, value := range t.All() {
		if !isHopByHop(name) {
			out.Add(http.TrailerPrefix+name, value)
		}
	}
	for name := range t.All() {
		// Announced ones would be sent twice.
		delete(out, http.CanonicalHeaderKey(name))
	}
}

func (s *stdResponder) sendTunnel(resp *Response) (Sent, error) {
	conn, buffered, err := s.rc.Hijack()
	if err != nil {
		s.abort = true
		return Sent{}, err
	}
	defer conn.Close()
	if err := writeSwitch(buffered.Writer, resp); err != nil {
		return Sent{}, err
	}
	// The request's context ends with the client's direction; that is no reason
	// to cut the other.
	return tunnel(s.conn, hijacked{Conn: conn, r: buffered.Reader}, resp.Tunnel)
}

func writeSwitch(w *bufio.Writer, resp *Response) error {
	fmt.Fprintf(w, "HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n")
	for name, value := range resp.Header.All() {
		if isHopByHop(name) {
			continue
		}
		fmt.Fprintf(w, "%s: %s\r\n", name, value)
	}
	w.WriteString("\r\n")
	return w.Flush()
}

// addToStd adds the fields that are not an engine's own.
func addToStd(out http.Header, h *Header) {
	for name, value := range h.All() {
		if !isHopByHop(name) {
			out.Add(name, value)
		}
	}
}
