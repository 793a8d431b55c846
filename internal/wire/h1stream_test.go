package wire

import (
	"bytes"
	"errors"
	"io"
	"net/http"
	"strings"
	"testing"
)

// follow feeds the parts and returns what passed and how it ended.
func follow(parts ...string) (passed string, s *h1Stream, err error) {
	s = &h1Stream{}
	for _, p := range parts {
		if err = s.feed([]byte(p)); err != nil {
			break
		}
	}
	return string(s.out), s, err
}

func TestStreamPasses(t *testing.T) {
	for _, in := range []string{
		"GET / HTTP/1.1\r\nHost: a\r\n\r\n",
		"GET / HTTP/1.1\r\nHost: a\r\n\r\nGET /2 HTTP/1.1\r\nHost: a\r\n\r\n",
		"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 3\r\n\r\nabcGET / HTTP/1.1\r\n\r\n",
		"POST / HTTP/1.1\r\nContent-Length: 0\r\n\r\nGET / HTTP/1.0\r\n\r\n",
		"POST / HTTP/1.1\r\nTransfer-Encoding: Chunked\r\n\r\n3;x=y\r\na\nb\r\nA\r\n0123456789\r\n0\r\nX-T: 1\r\n\r\nGET / HTTP/1.1\r\n\r\n",
		"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\x00\x00\x00\n\n",
		"GET /ws HTTP/1.1\r\nConnection: keep-alive, Upgrade\r\nUpgrade: websocket\r\n\r\n\n\n\x00anything",
	} {
		got, _, err := follow(in)
		if got != in || err != nil {
			t.Errorf("%q: passed %q, %v", in, got, err)
		}
		if split, _, err := follow(strings.Split(in, "")...); split != in || err != nil {
			t.Errorf("%q byte by byte: passed %q, %v", in, split, err)
		}
	}
	if got, _, err := follow("\r\nGET / HTTP/1.1\r\n\r\n"); got != "GET / HTTP/1.1\r\n\r\n" || err != nil {
		t.Errorf("empty line before a head: %q, %v", got, err)
	}
}

// TestStreamRefusesHeads: nothing of the head passes.
func TestStreamRefusesHeads(t *testing.T) {
	const good = "GET /1 HTTP/1.1\r\n\r\n"
	for in, status := range map[string]int{
		"GET / HTTP/1.1\n":                                                                 400,
		"GET / HTTP/1.1\r\nA: b\n":                                                         400,
		"GET / HTTP/1.1\r\nA: b\r\n c\r\n\r\n":                                             400,
		"GET / HTTP/1.1\r\n A: b\r\n\r\n":                                                  400,
		"GET / HTTP/1.1\r\nA : b\r\n\r\n":                                                  400,
		"GET / HTTP/1.1\r\nA\r\n\r\n":                                                      400,
		"GET / HTTP/1.1\r\n: b\r\n\r\n":                                                    400,
		"GET / HTTP/1.1\r\nA: b\x00\r\n\r\n":                                               400,
		"GET / HTTP/1.1\r\nA: b\rc\r\n\r\n":                                                400,
		"GET  / HTTP/1.1\r\n\r\n":                                                          400,
		"GET / HTTP/1.1 \r\n\r\n":                                                          400,
		"GET\t/ HTTP/1.1\r\n\r\n":                                                          400,
		"GET /\r\n\r\n":                                                                    400,
		"GET / HTTP/1.2\r\n\r\n":                                                           505,
		"GET / HTTP/2.0\r\n\r\n":                                                           505,
		"GET / http/1.1\r\n\r\n":                                                           400,
		"PRI * HTTP/2.0\r\n\r\n":                                                           505,
		"\r\n\r\nGET / HTTP/1.1\r\n\r\n":                                                   400,
		"P / HTTP/1.1\r\nContent-Length: 1\r\nContent-Length: 1\r\n\r\n":                   400,
		"P / HTTP/1.1\r\nContent-Length: 1, 1\r\n\r\n":                                     400,
		"P / HTTP/1.1\r\nContent-Length: +1\r\n\r\n":                                       400,
		"P / HTTP/1.1\r\nContent-Length: 0x1\r\n\r\n":                                      400,
		"P / HTTP/1.1\r\nContent-Length: 01\r\n\r\n":                                       400,
		"P / HTTP/1.1\r\nContent-Length: -1\r\n\r\n":                                       400,
		"P / HTTP/1.1\r\nContent-Length:\r\n\r\n":                                          400,
		"P / HTTP/1.1\r\nContent-Length: 18446744073709551617\r\n\r\n":                     400,
		"P / HTTP/1.1\r\nContent-Length: 1\r\nTransfer-Encoding: chunked\r\n\r\n":          400,
		"P / HTTP/1.0\r\nTransfer-Encoding: chunked\r\n\r\n":                               400,
		"P / HTTP/1.1\r\nTransfer-Encoding: chunked\r\nTransfer-Encoding: chunked\r\n\r\n": 400,
		"P / HTTP/1.1\r\nTransfer-Encoding: xchunked\r\n\r\n":                              400,
		"P / HTTP/1.1\r\nTransfer-Encoding: identity\r\n\r\n":                              400,
		"P / HTTP/1.1\r\nTransfer-Encoding: ,chunked\r\n\r\n":                              400,
		"P / HTTP/1.1\r\nTransfer-Encoding: chunked, gzip\r\n\r\n":                         400,
		"P / HTTP/1.1\r\nTransfer-Encoding: gzip, chunked\r\n\r\n":                         501,
		"GET / HTTP/1.1\r\nA: " + strings.Repeat("x", MaxFieldBytes) + "\r\n\r\n":          431,
		"GET / HTTP/1.1\r\nA: " + strings.Repeat("x", maxHeadBytes):                        431,
	} {
		got, s, err := follow(good, in)
		if got != good || err != errRefusedHead || s.refused.Status != status {
			t.Errorf("%.80q: passed %q, %v, %v; want %d", in, got, err, s.refused, status)
		}
	}
}

func TestStreamRefusesBodies(t *testing.T) {
	const head = "P / HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\n"
	for _, in := range []string{
		"1\na\r\n", "1\r\na\n", "1\r\nab\r\n", "0x1\r\n", "1 \r\n", " 1\r\n", "\r\n", "-1\r\n", "+1\r\n", "g\r\n",
		"1000000000000000\r\n", "1;" + strings.Repeat("x", maxChunkExtension+1) + "\r\n", "1;\x00\r\n",
		"0\r\nA : b\r\n\r\n", "0\r\n a\r\n\r\n", "0\r\nA: b\n", "0\r\n\n",
	} {
		got, _, err := follow(head, in)
		if err != errRefusedBody {
			t.Errorf("%q: passed %q, %v", in, got[len(head):], err)
		}
	}
}

// TestRefusedBody: the backend never takes it for whole, and who forwards it
// learns that it is the client's fault.
func TestRefusedBody(t *testing.T) {
	backend := httpBackend(t, func(w http.ResponseWriter, r *http.Request) {
		if _, err := io.ReadAll(r.Body); err == nil {
			t.Error("the backend got a whole body")
		}
	})
	rig := newRig(t, backend, false)
	c, r := rig.dial()
	io.WriteString(c, "POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n1\nx\r\n0\r\n\r\n")
	readHead(r)
	var refused *Refusal
	if err := <-rig.errs; !errors.As(err, &refused) || refused.Status != 400 {
		t.Errorf("error %v", err)
	}
}

// FuzzStream: however the bytes are cut, the result is the same.
func FuzzStream(f *testing.F) {
	f.Add([]byte("GET / HTTP/1.1\r\nHost: a\r\n\r\n"), uint8(3))
	f.Add([]byte("POST / HTTP/1.1\r\nContent-Length: 3\r\n\r\nabcGET / HTTP/1.1\r\n\r\n"), uint8(7))
	f.Add([]byte("P / HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\n3;x\r\nabc\r\n0\r\nT: 1\r\n\r\n"), uint8(1))
	f.Fuzz(func(t *testing.T, in []byte, cut uint8) {
		whole := &h1Stream{}
		errWhole := whole.feed(in)
		parts := &h1Stream{}
		var errParts error
		for rest := in; len(rest) > 0 && errParts == nil; {
			n := min(int(cut)+1, len(rest))
			errParts = parts.feed(rest[:n])
			rest = rest[n:]
		}
		// A head that is too long may be noticed at another byte.
		if errWhole != errParts || errWhole == nil && !bytes.Equal(whole.out, parts.out) {
			t.Fatalf("whole: %v %q, in parts: %v %q", errWhole, whole.out, errParts, parts.out)
		}
		if len(whole.out) > len(in) {
			t.Fatalf("more came out than went in: %q", whole.out)
		}
	})
}
