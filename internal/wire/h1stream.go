package wire

import (
	"bytes"
	"errors"
)

const (
	maxHeadBytes      = MaxHeaderBytes + MaxTargetBytes
	maxChunkExtension = 256 // in one body
	h2Preface         = "PRI * HTTP/2.0\r\n\r\n"
)

// h1State is what the next byte belongs to.
type h1State uint8

const (
	inHead h1State = iota
	inBody
	inChunkLine
	inChunk
	afterChunk // the CRLF that ends it
	inTrailer
	free // anything: the connection is no longer HTTP/1
)

// h1Stream follows the bytes that a client sends on an HTTP/1 connection, and
// lets only those through that are well-formed. It is a pure state machine:
// bytes in, bytes out.
type h1Stream struct {
	state h1State
	begun bool   // a head has been seen
	blank bool   // an empty line has been seen before this head
	held  []byte // of a head or line that is not complete
	left  int64  // of the body or chunk
	// bytes of extensions and trailers in this body
	extensions, trailers int
	out                  []byte
	// refused is set with errRefusedHead.
	refused *Refusal
	head    h1Framing
}

var (
	// errRefusedHead: the head that just ended must not be passed on.
	errRefusedHead = errors.New("malformed head")
	// errRefusedBody: the body goes on in a way that cannot be followed.
	errRefusedBody = errors.New("malformed chunked body")
)

// feed takes bytes and appends to out what may pass. After an error nothing
// more may be fed.
func (s *h1Stream) feed(in []byte) error {
	var err error
	for len(in) > 0 && err == nil {
		in, err = s.step(in)
	}
	return err
}

func (s *h1Stream) step(in []byte) (rest []byte, err error) {
	switch s.state {
	case inHead:
		return s.headLine(in)
	case inChunkLine:
		return s.chunkLine(in)
	case afterChunk:
		return s.chunkEnd(in)
	case inTrailer:
		return s.trailerLine(in)
	case inBody, inChunk:
		return s.take(in), nil
	}
	s.out = append(s.out, in...)
	return nil, nil
}

// midHead reports whether a head has begun and not ended.
func (s *h1Stream) midHead() bool { return s.state == inHead && len(s.held) > 0 }

// line moves one line into held; done tells that it is complete. Lines end with
// CRLF, nothing else.
func (s *h1Stream) line(in []byte, limit int) (rest []byte, done, ok bool) {
	end := bytes.IndexByte(in, '\n')
	if end < 0 {
		s.held = append(s.held, in...)
		return nil, false, len(s.held) <= limit
	}
	s.held = append(s.held, in[:end+1]...)
	n := len(s.held)
	return in[end+1:], true, n <= limit && n >= 2 && s.held[n-2] == '\r'
}

func (s *h1Stream) headLine(in []byte) ([]byte, error) {
	rest, done, ok := s.line(in, maxHeadBytes)
	switch {
	case !ok && len(s.held) > maxHeadBytes:
		return rest, s.refuse(&Refusal{Status: 431, Reason: "head too long"})
	case !ok:
		return rest, s.refuse(bad("line without CRLF"))
	case !done:
		return rest, nil
	case len(s.held) == 2: // one empty line may come before (RFC 9112 section 2.2)
		s.held = s.held[:0]
		if s.blank {
			return rest, s.refuse(bad("empty lines before a head"))
		}
		s.blank = true
		return rest, nil
	case !bytes.HasSuffix(s.held, []byte("\r\n\r\n")):
		return rest, nil
	}
	return rest, s.endHead()
}

func (s *h1Stream) refuse(r *Refusal) error {
	s.refused = r
	return errRefusedHead
}

func (s *h1Stream) endHead() error {
	if !s.begun && string(s.held) == h2Preface {
		s.pass(free)
		return nil
	}
	f, ref := checkH1Head(s.held)
	s.head = f
	if ref != nil {
		return s.refuse(ref)
	}
	s.begun, s.blank = true, false
	s.extensions, s.trailers, s.left = 0, 0, f.length
	switch {
	case f.websocket:
		s.pass(free)
	case f.chunked:
		s.pass(inChunkLine)
	case f.length > 0:
		s.pass(inBody)
	default:
		s.pass(inHead)
	}
	return nil
}

// pass lets what was held through and goes on in another state.
func (s *h1Stream) pass(next h1State) {
	s.out = append(s.out, s.held...)
	s.held, s.head, s.state = s.held[:0], h1Framing{}, next
}

// take passes on what is left of a body or chunk.
func (s *h1Stream) take(in []byte) (rest []byte) {
	n := min(int64(len(in)), s.left)
	s.out = append(s.out, in[:n]...)
	if s.left -= n; s.left == 0 {
		if s.state == inChunk {
			s.state = afterChunk
		} else {
			s.state = inHead
		}
	}
	return in[n:]
}

func (s *h1Stream) chunkLine(in []byte) ([]byte, error) {
	rest, done, ok := s.line(in, 16+maxChunkExtension+2)
	if !ok {
		return rest, errRefusedBody
	}
	if !done {
		return rest, nil
	}
	size, extension, _ := bytes.Cut(s.held[:len(s.held)-2], []byte(";"))
	s.extensions += len(extension)
	n, ok := parseChunkSize(size)
	if !ok || s.extensions > maxChunkExtension || !validValue(string(extension)) {
		return rest, errRefusedBody
	}
	s.left = n
	if n == 0 {
		s.pass(inTrailer)
	} else {
		s.pass(inChunk)
	}
	return rest, nil
}

func parseChunkSize(s []byte) (int64, bool) {
	if len(s) == 0 || len(s) > 15 {
		return 0, false
	}
	var n int64
	for _, c := range s {
		d, ok := hexDigit(c)
		if !ok {
			return 0, false
		}
		n = n<<4 | int64(d)
	}
	return n, true
}

func (s *h1Stream) chunkEnd(in []byte) ([]byte, error) {
	rest, done, ok := s.line(in, 2)
	if !ok {
		return rest, errRefusedBody
	}
	if done {
		s.pass(inChunkLine)
	}
	return rest, nil
}

func (s *h1Stream) trailerLine(in []byte) ([]byte, error) {
	rest, done, ok := s.line(in, MaxFieldBytes)
	if !ok {
		return rest, errRefusedBody
	}
	if !done {
		return rest, nil
	}
	if len(s.held) == 2 {
		s.pass(inHead)
		return rest, nil
	}
	s.trailers += len(s.held)
	if _, ref := fieldLine(string(s.held[:len(s.held)-2])); ref != nil || s.trailers > MaxHeaderBytes {
		return rest, errRefusedBody
	}
	s.pass(inTrailer)
	return rest, nil
}
