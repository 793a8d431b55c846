package wire

import (
	"bufio"
	"bytes"
	"context"
	"crypto/sha1"
	"encoding/base64"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"go.uber.org/goleak"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// rig is a proxy made of both engines between a client and a backend.
type rig struct {
	t       *testing.T
	proxy   net.Listener
	client  *StdClient
	backend string // address
	h2c     bool   // to the backend
	drain   chan struct{}
	dials   chan struct{}
	// seen gets each request as the pipeline sees it.
	seen chan *Request
	errs chan error
}

func newRig(t *testing.T, backend string, h2c bool) *rig {
	t.Helper()
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	r := &rig{t: t, proxy: ln, client: NewStdClient(StdClientOptions{}), backend: backend, h2c: h2c,
		drain: make(chan struct{}), dials: make(chan struct{}, 100), seen: make(chan *Request, 100), errs: make(chan error, 100)}
	ctx, cancel := context.WithCancel(context.Background())
	var group sync.WaitGroup
	group.Go(func() {
		for {
			c, err := ln.Accept()
			if err != nil {
				return
			}
			group.Go(func() {
				s := &StdServer{Log: slog.New(slog.DiscardHandler)}
				if err := s.Serve(ctx, c, r.handle, r.drain); err != nil {
					t.Log("serve:", err)
				}
			})
		}
	})
	t.Cleanup(func() {
		ln.Close()
		cancel()
		group.Wait()
		r.client.Close()
	})
	return r
}

func (r *rig) handle(ctx context.Context, req *Request, w Responder) {
	copied := *req
	copied.Header = req.Header.Clone()
	r.seen <- &copied
	if req.Refused != nil {
		_, err := w.Send(&Response{Status: req.Refused.Status})
		r.errs <- err
		return
	}
	resp, err := r.client.Do(ctx, req, Via{Pool: r.backend, H2C: r.h2c, OnInform: w.Inform,
		Dial: func(context.Context) (net.Conn, error) {
			r.dials <- struct{}{}
			return net.Dial("tcp", r.backend)
		}})
	if err != nil {
		w.Send(&Response{Status: 502})
		r.errs <- err
		return
	}
	_, err = w.Send(resp)
	r.errs <- err
}

// httpBackend is an ordinary server for both versions.
func httpBackend(t *testing.T, h http.HandlerFunc) string {
	t.Helper()
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	srv := &http.Server{Handler: h, Protocols: stdProtocols()}
	done := make(chan struct{})
	go func() { srv.Serve(ln); close(done) }()
	t.Cleanup(func() { srv.Close(); <-done })
	return ln.Addr().String()
}

// rawBackend answers each connection with the function.
func rawBackend(t *testing.T, serve func(c net.Conn, r *bufio.Reader)) string {
	t.Helper()
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	var group sync.WaitGroup
	group.Go(func() {
		for {
			c, err := ln.Accept()
			if err != nil {
				return
			}
			group.Go(func() {
				defer c.Close()
				serve(c, bufio.NewReader(c))
			})
		}
	})
	t.Cleanup(func() { ln.Close(); group.Wait() })
	return ln.Addr().String()
}

// readHead reads up to the empty line.
func readHead(r *bufio.Reader) string {
	var b strings.Builder
	for {
		line, err := r.ReadString('\n')
		b.WriteString(line)
		if err != nil || line == "\r\n" {
			return b.String()
		}
	}
}

func (r *rig) dial() (net.Conn, *bufio.Reader) {
	r.t.Helper()
	c, err := net.Dial("tcp", r.proxy.Addr().String())
	if err != nil {
		r.t.Fatal(err)
	}
	r.t.Cleanup(func() { c.Close() })
	c.SetDeadline(time.Now().Add(10 * time.Second))
	return c, bufio.NewReader(c)
}

// httpClient speaks to the proxy.
func (r *rig) httpClient(h2 bool) *http.Client {
	tr := &http.Transport{Protocols: new(http.Protocols), DisableCompression: true}
	tr.Protocols.SetHTTP1(!h2)
	tr.Protocols.SetUnencryptedHTTP2(h2)
	r.t.Cleanup(tr.CloseIdleConnections)
	return &http.Client{Transport: tr, Timeout: 10 * time.Second,
		CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse }}
}

func (r *rig) url(target string) string { return "http://" + r.proxy.Addr().String() + target }

// TestBytesOfHTTP1 compares whole messages as they are on the wire: nothing is
// invented, nothing of one hop is passed on.
func TestBytesOfHTTP1(t *testing.T) {
	heads := make(chan string, 1)
	backend := rawBackend(t, func(c net.Conn, r *bufio.Reader) {
		heads <- readHead(r)
		io.WriteString(c, "HTTP/1.1 200 OK\r\nX-B: 1\r\nConnection: x-hop\r\nX-Hop: 1\r\nContent-Length: 2\r\n\r\nok")
		io.Copy(io.Discard, r)
	})
	rig := newRig(t, backend, false)
	c, r := rig.dial()
	io.WriteString(c, "GET //a/./%62?x=1&y HTTP/1.1\r\nHost: Echo\r\nX-A: 1\r\nX-A: 2\r\nConnection: keep-alive, x-gone\r\nX-Gone: 1\r\n\r\n")
	if got, want := <-heads, "GET //a/b?x=1&y HTTP/1.1\r\nHost: echo\r\nX-A: 1\r\nX-A: 2\r\n\r\n"; got != want {
		t.Errorf("backend got\n%q, want\n%q", got, want)
	}
	if got, want := readHead(r), "HTTP/1.1 200 OK\r\nContent-Length: 2\r\nX-B: 1\r\n\r\n"; got != want {
		t.Errorf("client got\n%q, want\n%q", got, want)
	}
}

func TestEmptyQueryIsKept(t *testing.T) {
	heads := make(chan string, 1)
	backend := rawBackend(t, func(c net.Conn, r *bufio.Reader) {
		heads <- readHead(r)
		io.WriteString(c, "HTTP/1.1 204 No Content\r\n\r\n")
		io.Copy(io.Discard, r)
	})
	rig := newRig(t, backend, false)
	c, r := rig.dial()
	io.WriteString(c, "GET /? HTTP/1.1\r\nHost: a\r\n\r\n")
	if got := <-heads; !strings.HasPrefix(got, "GET /? HTTP/1.1\r\n") {
		t.Errorf("backend got %q", got)
	}
	if got, want := readHead(r), "HTTP/1.1 204 No Content\r\n\r\n"; got != want {
		t.Errorf("client got %q, want %q", got, want)
	}
}

// TestRefusals: what the pipeline is told to refuse.
func TestRefusals(t *testing.T) {
	rig := newRig(t, "127.0.0.1:1", false)
	for _, tt := range []struct{ in, want string }{
		{"GET /%00 HTTP/1.1\r\nHost: a\r\n\r\n", "400"},
		{"GET /../x HTTP/1.1\r\nHost: a\r\n\r\n", "400"},
		{"GET a:b HTTP/1.1\r\nHost: a\r\n\r\n", "400"},
		{"GET /a#b HTTP/1.1\r\nHost: a\r\n\r\n", "400"},
		{"TRACE / HTTP/1.1\r\nHost: a\r\n\r\n", "405"},
		{"CONNECT a:80 HTTP/1.1\r\nHost: a:80\r\n\r\n", "405"},
		{"GET / HTTP/1.1\r\n\r\n", "400"},
		{"GET / HTTP/1.1\r\nHost: a\r\nHost: b\r\n\r\n", "400"},
		{"GET / HTTP/1.1\r\nHost: a/b\r\n\r\n", "400"},
		{"GET / HTTP/1.1\r\nHost: a\r\nX: " + strings.Repeat("x", MaxFieldBytes+1) + "\r\n\r\n", "431"},
		{"GET / HTTP/1.1\r\nHost: a\r\nX: " + strings.Repeat("x", 2*MaxHeaderBytes) + "\r\n\r\n", "431"},
		{"GET / HTTP/1.1\r\nHost: a\r\n" + strings.Repeat("X: 1\r\n", MaxFields+1) + "\r\n", "431"},
		{"GET /" + strings.Repeat("a", MaxTargetBytes) + " HTTP/1.1\r\nHost: a\r\n\r\n", "414"},
		{"POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: gzip, chunked\r\n\r\n", "501"},
		{"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: +1\r\n\r\nx", "400"},
		{"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 1\r\nContent-Length: 2\r\n\r\nx", "400"},
		{"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 1\r\nContent-Length: 1\r\n\r\nx", "400"},
		{"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 1\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n", "400"},
		{"POST / HTTP/1.0\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n", "400"},
		{"GET / HTTP/1.1\nHost: a\n\n", "400"},
		{"GET / HTTP/1.1\r\nHost: a\r\nX: 1\r\n 2\r\n\r\n", "400"},
		{"GET / HTTP/1.1\r\nHost: a\r\nX : 1\r\n\r\n", "400"},
		{"GET / HTTP/1.2\r\nHost: a\r\n\r\n", "505"},
	} {
		c, r := rig.dial()
		go io.WriteString(c, tt.in)
		line, err := r.ReadString('\n')
		if f := strings.Fields(line); len(f) < 2 || f[1] != tt.want {
			t.Errorf("%.60q: %q, %v; want %s", tt.in, line, err, tt.want)
		}
		c.Close()
	}
}

func TestHostDiffersOverHTTP2(t *testing.T) {
	rig := newRig(t, "127.0.0.1:1", false)
	req, _ := http.NewRequest("GET", rig.url("/"), nil)
	req.Host = "a"
	req.Header.Set("x", "y")
	resp, err := rig.httpClient(true).Do(req)
	if err != nil {
		t.Fatal(err)
	}
	resp.Body.Close()
	if resp.StatusCode != 502 { // no backend, but let through
		t.Errorf("same host: %d", resp.StatusCode)
	}
}

// TestVersions runs the same exchanges over all pairs of protocol versions.
func TestVersions(t *testing.T) {
	backend := httpBackend(t, func(w http.ResponseWriter, r *http.Request) {
		body, _ := io.ReadAll(r.Body)
		w.Header().Set("X-Host", r.Host)
		w.Header().Set("X-Method", r.Method)
		w.Header().Set("X-Target", r.RequestURI)
		w.Header().Set("X-UA", strings.Join(r.Header["User-Agent"], "|"))
		w.Header().Set("X-AE", r.Header.Get("Accept-Encoding"))
		switch r.URL.Path {
		case "/204":
			w.WriteHeader(204)
		case "/304":
			w.Header().Set("ETag", `"x"`)
			w.WriteHeader(304)
		case "/trailer":
			w.Write(body)
			w.(http.Flusher).Flush()
			w.Header().Set(http.TrailerPrefix+"X-End", "done")
		case "/hints":
			w.Header().Set("Link", "</x>")
			w.WriteHeader(103)
			w.WriteHeader(200)
		default:
			w.Header().Set("Content-Length", fmt.Sprint(len(body)+1))
			if r.Method != "HEAD" {
				fmt.Fprintf(w, "%s.", body)
			}
		}
	})
	for _, pair := range []struct{ front, back bool }{{false, false}, {false, true}, {true, false}, {true, true}} {
		t.Run(fmt.Sprintf("front h2=%t back h2=%t", pair.front, pair.back), func(t *testing.T) {
			rig := newRig(t, backend, pair.back)
			client := rig.httpClient(pair.front)
			do := func(method, target, body string) (*http.Response, string) {
				t.Helper()
				var in io.Reader
				if body != "" {
					in = strings.NewReader(body)
				}
				req, _ := http.NewRequest(method, rig.url(target), in)
				req.Host = "Echo.test"
				req.Header["User-Agent"] = nil
				resp, err := client.Do(req)
				if err != nil {
					t.Fatal(err)
				}
				defer resp.Body.Close()
				got, err := io.ReadAll(resp.Body)
				if err != nil {
					t.Fatal(err)
				}
				return resp, string(got)
			}
			resp, body := do("POST", "/x/../y?q", "hello")
			if resp.StatusCode != 200 || body != "hello." || resp.ContentLength != 6 {
				t.Errorf("POST: %d %q length %d", resp.StatusCode, body, resp.ContentLength)
			}
			if h := resp.Header; h.Get("X-Host") != "echo.test" || h.Get("X-Target") != "/y?q" || h.Get("X-UA") != "" || h.Get("X-AE") != "" {
				t.Errorf("backend saw %v", h)
			}
			if resp, body := do("HEAD", "/", ""); resp.ContentLength != 1 || body != "" {
				t.Errorf("HEAD: length %d, body %q", resp.ContentLength, body)
			}
			if resp, body := do("GET", "/204", ""); resp.StatusCode != 204 || body != "" || resp.Header.Get("Content-Length") != "" {
				t.Errorf("204: %d %v", resp.StatusCode, resp.Header)
			}
			if resp, body := do("GET", "/304", ""); resp.StatusCode != 304 || body != "" || resp.Header.Get("ETag") != `"x"` {
				t.Errorf("304: %d %v", resp.StatusCode, resp.Header)
			}
			if resp, body := do("POST", "/trailer", "t"); body != "t" || resp.Trailer.Get("X-End") != "done" {
				t.Errorf("trailer: %q %v", body, resp.Trailer)
			}
			if resp, _ := do("GET", "/hints", ""); resp.StatusCode != 200 {
				t.Errorf("hints: %d", resp.StatusCode)
			}
			if resp, body := do("DELETE", "/", ""); resp.Header.Get("X-Method") != "DELETE" || body != "." {
				t.Errorf("DELETE: %v %q", resp.Header, body)
			}
		})
	}
}

// TestFullDuplex: each side sees a byte before it sends the next.
func TestFullDuplex(t *testing.T) {
	for _, h2 := range []bool{false, true} {
		backend := httpBackend(t, func(w http.ResponseWriter, r *http.Request) {
			http.NewResponseController(w).EnableFullDuplex()
			w.WriteHeader(200)
			w.(http.Flusher).Flush()
			buf := make([]byte, 10)
			for {
				n, err := r.Body.Read(buf)
				w.Write(buf[:n])
				w.(http.Flusher).Flush()
				if err != nil {
					return
				}
			}
		})
		rig := newRig(t, backend, h2)
		pr, pw := io.Pipe()
		req, _ := http.NewRequest("POST", rig.url("/"), pr)
		resp, err := rig.httpClient(h2).Do(req)
		if err != nil {
			t.Fatal(err)
		}
		buf := make([]byte, 4)
		for i := range 5 {
			fmt.Fprintf(pw, "n%02d.", i)
			if _, err := io.ReadFull(resp.Body, buf); err != nil || string(buf) != fmt.Sprintf("n%02d.", i) {
				t.Fatalf("h2=%t: %q, %v", h2, buf, err)
			}
		}
		pw.Close()
		if rest, err := io.ReadAll(resp.Body); len(rest) > 0 || err != nil {
			t.Errorf("h2=%t: rest %q, %v", h2, rest, err)
		}
		resp.Body.Close()
	}
}

// TestExpectContinue: the client is told to go on when the backend has said so,
// and not at all when it refuses.
func TestExpectContinue(t *testing.T) {
	backend := httpBackend(t, func(w http.ResponseWriter, r *http.Request) {
		if r.URL.Path == "/refuse" {
			w.WriteHeader(403)
			return
		}
		body, _ := io.ReadAll(r.Body)
		w.Write(body)
	})
	rig := newRig(t, backend, false)
	c, r := rig.dial()
	io.WriteString(c, "POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 2\r\nExpect: 100-continue\r\n\r\n")
	if got := readHead(r); got != "HTTP/1.1 100 Continue\r\n\r\n" {
		t.Fatalf("got %q", got)
	}
	io.WriteString(c, "hi")
	if got := readHead(r); !strings.HasPrefix(got, "HTTP/1.1 200") {
		t.Fatalf("got %q", got)
	}
	c, r = rig.dial()
	io.WriteString(c, "POST /refuse HTTP/1.1\r\nHost: a\r\nContent-Length: 2\r\nExpect: 100-continue\r\n\r\n")
	if got := readHead(r); !strings.HasPrefix(got, "HTTP/1.1 403") {
		t.Fatalf("got %q", got)
	}
	c, r = rig.dial()
	io.WriteString(c, "POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 2\r\nExpect: more\r\n\r\n")
	if got := readHead(r); !strings.HasPrefix(got, "HTTP/1.1 417") {
		t.Fatalf("got %q", got)
	}
}

const wsKey = "dGhlIHNhbXBsZSBub25jZQ=="

func wsAccept() string {
	sum := sha1.Sum([]byte(wsKey + "258EAFA5-E914-47DA-95CA-C5AB0DC85B11"))
	return base64.StdEncoding.EncodeToString(sum[:])
}

func TestWebSocket(t *testing.T) {
	backend := rawBackend(t, func(c net.Conn, r *bufio.Reader) {
		head := readHead(r)
		if !strings.Contains(head, "Upgrade: websocket\r\n") || !strings.Contains(head, "Connection: Upgrade\r\n") {
			t.Errorf("backend got %q", head)
		}
		fmt.Fprintf(c, "HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Accept: %s\r\n\r\nhello", wsAccept())
		io.Copy(c, r) // echo until the client ends
	})
	rig := newRig(t, backend, true) // a backend's h2c does not concern an upgrade
	c, r := rig.dial()
	// What follows the head belongs to the other protocol already.
	fmt.Fprintf(c, "GET /ws HTTP/1.1\r\nHost: a\r\nConnection: upgrade\r\nUpgrade: WebSocket\r\nSec-WebSocket-Key: %s\r\n\r\nearly", wsKey)
	if got := readHead(r); !strings.HasPrefix(got, "HTTP/1.1 101") || !strings.Contains(got, "Sec-Websocket-Accept: "+wsAccept()) {
		t.Fatalf("got %q", got)
	}
	buf := make([]byte, 10)
	if _, err := io.ReadFull(r, buf); err != nil || string(buf) != "helloearly" {
		t.Fatalf("got %q, %v", buf, err)
	}
	io.WriteString(c, "bye")
	c.(*net.TCPConn).CloseWrite()
	if rest, err := io.ReadAll(r); string(rest) != "bye" || err != nil {
		t.Errorf("rest %q, %v", rest, err)
	}
}

func TestWebSocketRefused(t *testing.T) {
	for _, answer := range []string{
		"HTTP/1.1 403 Forbidden\r\nContent-Length: 0\r\n\r\n",
		"HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Accept: wrong\r\n\r\n",
	} {
		ended := make(chan struct{})
		backend := rawBackend(t, func(c net.Conn, r *bufio.Reader) {
			readHead(r)
			io.WriteString(c, answer)
			if rest, _ := io.ReadAll(r); len(rest) > 0 {
				t.Errorf("connection was used on for %q", rest)
			}
			close(ended)
		})
		rig := newRig(t, backend, false)
		c, r := rig.dial()
		fmt.Fprintf(c, "GET /ws HTTP/1.1\r\nHost: a\r\nConnection: upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Key: %s\r\n\r\nGET /smuggled HTTP/1.1\r\nHost: a\r\n\r\n", wsKey)
		got := readHead(r)
		if strings.HasPrefix(got, "HTTP/1.1 101") || !strings.Contains(got, "Connection: close\r\n") {
			t.Errorf("got %q", got)
		}
		if rest, _ := io.ReadAll(r); strings.Contains(string(rest), "HTTP/1.1") {
			t.Errorf("a second answer: %q", rest)
		}
		<-ended
	}
}

// TestH2CUpgrade: the request is served, the upgrade is not passed on.
func TestH2CUpgrade(t *testing.T) {
	heads := make(chan string, 1)
	backend := rawBackend(t, func(c net.Conn, r *bufio.Reader) {
		heads <- readHead(r)
		io.WriteString(c, "HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n")
		io.Copy(io.Discard, r)
	})
	rig := newRig(t, backend, false)
	c, r := rig.dial()
	io.WriteString(c, "GET / HTTP/1.1\r\nHost: a\r\nConnection: Upgrade, HTTP2-Settings\r\nUpgrade: h2c\r\nHTTP2-Settings: AAMAAABkAARAAAAAAAIAAAAA\r\n\r\n")
	if got := strings.ToLower(<-heads); strings.Contains(got, "upgrade") || strings.Contains(got, "settings") {
		t.Errorf("backend got %q", got)
	}
	if got := readHead(r); !strings.HasPrefix(got, "HTTP/1.1 200") {
		t.Errorf("got %q", got)
	}
}

// TestTruncated: a body cut short upstream is cut short for the client too, in
// a way that it notices.
func TestTruncated(t *testing.T) {
	for _, answer := range []string{
		"HTTP/1.1 200 OK\r\nContent-Length: 10\r\n\r\nhalf",
		"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n4\r\nhalf\r\n",
	} {
		backend := rawBackend(t, func(c net.Conn, r *bufio.Reader) {
			readHead(r)
			io.WriteString(c, answer)
		})
		for _, h2 := range []bool{false, true} {
			rig := newRig(t, backend, false)
			resp, err := rig.httpClient(h2).Get(rig.url("/"))
			if err != nil {
				t.Fatal(err)
			}
			body, err := io.ReadAll(resp.Body)
			resp.Body.Close()
			if err == nil {
				t.Errorf("h2=%t: whole body %q, want an error", h2, body)
			}
			if err := <-rig.errs; err == nil {
				t.Error("Send returned no error")
			}
		}
	}
}

// TestEarlyResponse: a backend that answers before it has the body is heard, and
// its connection is not used again.
func TestEarlyResponse(t *testing.T) {
	backend := rawBackend(t, func(c net.Conn, r *bufio.Reader) {
		readHead(r)
		io.WriteString(c, "HTTP/1.1 413 Too Large\r\nContent-Length: 3\r\n\r\nbig")
		io.Copy(io.Discard, r)
	})
	rig := newRig(t, backend, false)
	client := rig.httpClient(false)
	for range 2 {
		pr, pw := io.Pipe()
		req, _ := http.NewRequest("POST", rig.url("/"), pr)
		resp, err := client.Do(req)
		if err != nil {
			t.Fatal(err)
		}
		body, _ := io.ReadAll(resp.Body)
		resp.Body.Close()
		pw.CloseWithError(errors.New("enough"))
		if resp.StatusCode != 413 || string(body) != "big" {
			t.Errorf("%d %q", resp.StatusCode, body)
		}
	}
	if n := len(rig.dials); n != 2 {
		t.Errorf("%d connections to the backend, want 2", n)
	}
}

func TestKeepAliveAndPools(t *testing.T) {
	backend := httpBackend(t, func(w http.ResponseWriter, r *http.Request) { io.WriteString(w, "ok") })
	for _, h2c := range []bool{false, true} {
		client := NewStdClient(StdClientOptions{})
		var dials []string
		do := func(pool string) {
			t.Helper()
			req := &Request{Method: "GET", Scheme: "http", Authority: "a", Path: "/"}
			resp, err := client.Do(context.Background(), req, Via{Pool: pool, H2C: h2c, Dial: func(context.Context) (net.Conn, error) {
				dials = append(dials, pool)
				return net.Dial("tcp", backend)
			}})
			if err != nil {
				t.Fatal(err)
			}
			io.Copy(io.Discard, resp.Body)
			resp.Close()
		}
		do("one")
		do("one")
		do("two")
		do("one")
		do("two")
		if want := []string{"one", "two"}; !slices.Equal(dials, want) {
			t.Errorf("h2c=%t: dialled for %v, want %v", h2c, dials, want)
		}
		client.Close()
	}
}

func TestDialError(t *testing.T) {
	client := NewStdClient(StdClientOptions{})
	defer client.Close()
	why := errors.New("no way")
	for _, h2c := range []bool{false, true} {
		_, err := client.Do(context.Background(), &Request{Method: "GET", Scheme: "http", Authority: "a", Path: "/"},
			Via{Pool: "x", H2C: h2c, Dial: func(context.Context) (net.Conn, error) { return nil, why }})
		var dial *DialError
		if !errors.As(err, &dial) || !errors.Is(err, why) {
			t.Errorf("h2c=%t: %v is no DialError of the reason", h2c, err)
		}
	}
}

// TestDrain: a request under way is finished, the connection then closed.
func TestDrain(t *testing.T) {
	for _, h2 := range []bool{false, true} {
		entered, leave := make(chan struct{}), make(chan struct{})
		backend := httpBackend(t, func(w http.ResponseWriter, r *http.Request) {
			close(entered)
			<-leave
			io.WriteString(w, "done")
		})
		rig := newRig(t, backend, false)
		type result struct {
			body string
			err  error
		}
		got := make(chan result, 1)
		client := rig.httpClient(h2)
		go func() {
			resp, err := client.Get(rig.url("/"))
			if err != nil {
				got <- result{"", err}
				return
			}
			b, err := io.ReadAll(resp.Body)
			resp.Body.Close()
			got <- result{string(b), err}
		}()
		<-entered
		close(rig.drain)
		close(leave)
		if r := <-got; r.body != "done" || r.err != nil {
			t.Errorf("h2=%t: %q, %v", h2, r.body, r.err)
		}
	}
}

// TestTrailersOnly: a head that ends the stream stays one, and so keeps its
// meaning for gRPC.
func TestTrailersOnly(t *testing.T) {
	backend := httpBackend(t, func(w http.ResponseWriter, r *http.Request) {
		w.Header().Set("Content-Type", "application/grpc")
		w.Header().Set("Grpc-Status", "5")
	})
	rig := newRig(t, backend, true)
	resp, err := rig.httpClient(true).Post(rig.url("/s/m"), "application/grpc", bytes.NewReader([]byte{0, 0, 0, 0, 0}))
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	if resp.Header.Get("Grpc-Status") != "5" || resp.ContentLength != 0 {
		t.Errorf("header %v, length %d", resp.Header, resp.ContentLength)
	}
}
