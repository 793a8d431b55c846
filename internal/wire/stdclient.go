package wire

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"io"
	"net"
	"net/http"
	"net/http/httptrace"
	"net/textproto"
	"net/url"
	"sync"
	"time"
)

// StdClient is the Client that stands on net/http.
type StdClient struct {
	h1, h2  *http.Transport
	upgrade *http.Transport // keeps no connection: see Do
}

// StdClientOptions bound the pools.
type StdClientOptions struct {
	// IdlePerPool and Idle bound the idle HTTP/1.1 connections of one pool and
	// of all; 0 means 64 and 4096.
	IdlePerPool, Idle int
	// IdleTimeout closes idle connections; 0 means 60 s.
	IdleTimeout time.Duration
}

// NewStdClient returns a client; its user closes it.
func NewStdClient(o StdClientOptions) *StdClient {
	if o.IdlePerPool == 0 {
		o.IdlePerPool = 64
	}
	if o.Idle == 0 {
		o.Idle = 4096
	}
	if o.IdleTimeout == 0 {
		o.IdleTimeout = time.Minute
	}
	c := &StdClient{h1: stdTransport(o), h2: stdTransport(o), upgrade: stdTransport(o)}
	c.upgrade.DisableKeepAlives = true
	c.h2.Protocols = new(http.Protocols)
	c.h2.Protocols.SetUnencryptedHTTP2(true)
	return c
}

func stdTransport(o StdClientOptions) *http.Transport {
	t := &http.Transport{
		DialContext:            dialVia,
		DisableCompression:     true, // no Accept-Encoding of ours, no body changed
		MaxIdleConns:           o.Idle,
		MaxIdleConnsPerHost:    o.IdlePerPool,
		IdleConnTimeout:        o.IdleTimeout,
		ExpectContinueTimeout:  time.Second,
		MaxResponseHeaderBytes: MaxHeaderBytes,
		Protocols:              new(http.Protocols),
		HTTP2: &http.HTTP2Config{
			SendPingTimeout: 30 * time.Second, PingTimeout: 15 * time.Second,
			MaxReceiveBufferPerConnection: 4 << 20, MaxReceiveBufferPerStream: 1 << 20,
		},
	}
	t.Protocols.SetHTTP1(true)
	return t
}

type viaKey struct{}

// dialVia makes a connection for the pool that the address stands for, the way
// the request that needs it says. net/http keeps the values of that request's
// context here, not its end.
func dialVia(ctx context.Context, _, _ string) (net.Conn, error) {
	via, ok := ctx.Value(viaKey{}).(*Via)
	if !ok {
		return nil, &DialError{Err: errors.New("no way to connect")}
	}
	conn, err := via.Dial(ctx)
	if err != nil {
		return nil, &DialError{Err: err}
	}
	return conn, nil
}

// poolHost names a pool as net/http can: it pools by host.
func poolHost(pool string) string {
	sum := sha256.Sum256([]byte(pool))
	return hex.EncodeToString(sum[:])
}

// Close implements Client.
func (c *StdClient) Close() {
	for _, t := range []*http.Transport{c.h1, c.h2, c.upgrade} {
		t.CloseIdleConnections()
	}
}

var (
	errUnasked101 = errors.New("101 without a request for it")
	errBadStatus  = errors.New("response with an invalid status")
)

// Do implements Client. An upgrade gets a connection of its own that is used
// for nothing after it: an endpoint that refuses it may still take what follows
// for the other protocol.
func (c *StdClient) Do(ctx context.Context, req *Request, via Via) (*Response, error) {
	transport := c.h1
	switch {
	case req.Upgrade != "":
		transport = c.upgrade
	case via.H2C:
		transport = c.h2
	}
	ctx = context.WithValue(ctx, viaKey{}, &via)
	ctx = httptrace.WithClientTrace(ctx, traceOf(&via))
	hreq := requestToStd(ctx, req, via)
	hresp, err := transport.RoundTrip(hreq)
	if err != nil {
		return nil, err
	}
	if hresp.StatusCode < 200 && (hresp.StatusCode != 101 || req.Upgrade == "") {
		hresp.Body.Close()
		if hresp.StatusCode == 101 {
			return nil, errUnasked101
		}
		return nil, errBadStatus
	}
	return responseOfStd(req, hresp)
}

func traceOf(via *Via) *httptrace.ClientTrace {
	t := &httptrace.ClientTrace{}
	if via.OnConn != nil {
		t.GotConn = func(i httptrace.GotConnInfo) { via.OnConn(i.Conn, i.Reused) }
	}
	if via.OnInform != nil {
		t.Got1xxResponse = func(code int, mh textproto.MIMEHeader) error {
			if code != http.StatusContinue {
				h := responseHeader(http.Header(mh))
				via.OnInform(code, &h)
			}
			return nil
		}
	}
	return t
}

func requestToStd(ctx context.Context, req *Request, via Via) *http.Request {
	// The path is canonical, so it can be unescaped and RawPath is taken as is.
	path, _ := url.PathUnescape(req.Path)
	h := make(http.Header, req.Header.Len()+4)
	addToStd(h, &req.Header)
	if _, ok := h["User-Agent"]; !ok {
		h["User-Agent"] = nil // none of ours
	}
	if req.ExpectContinue && req.Body != nil {
		h["Expect"] = []string{"100-continue"}
	}
	if req.TETrailers && via.H2C {
		h["Te"] = []string{"trailers"}
	}
	if req.Upgrade != "" {
		h["Connection"], h["Upgrade"] = []string{"Upgrade"}, []string{req.Upgrade}
	}
	hreq := &http.Request{
		Method: req.Method,
		URL: &url.URL{Scheme: "http", Host: poolHost(via.Pool), Path: path, RawPath: req.Path,
			RawQuery: req.Query, ForceQuery: req.HasQuery},
		Host: req.Authority, Header: h,
		ProtoMajor: 1, ProtoMinor: 1,
	}
	if req.Body != nil {
		body := &stdSendBody{src: req.Body}
		hreq.Body, hreq.ContentLength = body, req.ContentLength
		if req.Trailer != nil && via.H2C {
			body.from, body.to = req.Trailer, http.Header{}
			for name := range req.Trailer.All() {
				body.to[http.CanonicalHeaderKey(name)] = nil
			}
			hreq.Trailer = body.to
		}
	}
	return hreq.WithContext(ctx)
}

// stdSendBody is a request's body on its way out. net/http closes it when it
// wants no more of it, and waits for a Read under way to end.
type stdSendBody struct {
	src  io.ReadCloser
	from *Header
	to   http.Header

	mu              sync.Mutex
	reading, closed bool
}

var errBodyClosed = errors.New("body was given up")

func (b *stdSendBody) Read(p []byte) (int, error) {
	if !b.begin() {
		return 0, errBodyClosed
	}
	n, err := b.src.Read(p)
	b.mu.Lock()
	b.reading = false
	b.mu.Unlock()
	if err == io.EOF && b.from != nil {
		clear(b.to)
		addToStd(b.to, b.from)
	}
	return n, err
}

func (b *stdSendBody) begin() bool {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.reading = !b.closed
	return b.reading
}

func (b *stdSendBody) Close() error {
	b.mu.Lock()
	reading := b.reading
	b.closed = true
	b.mu.Unlock()
	if reading {
		return b.src.Close()
	}
	return nil
}

func responseOfStd(req *Request, hresp *http.Response) (*Response, error) {
	resp := &Response{Status: hresp.StatusCode, Header: responseHeader(hresp.Header), ContentLength: hresp.ContentLength}
	if hresp.StatusCode == http.StatusSwitchingProtocols {
		resp.Tunnel, _ = hresp.Body.(io.ReadWriteCloser)
		if err := checkSwitch(req, resp); err != nil {
			hresp.Body.Close()
			return nil, err
		}
		return resp, nil
	}
	noBody := hresp.Body == nil || hresp.Body == http.NoBody || hresp.ContentLength == 0 || req.Method == "HEAD" ||
		hresp.StatusCode == http.StatusNoContent || hresp.StatusCode == http.StatusNotModified
	if noBody {
		if hresp.Body != nil {
			hresp.Body.Close()
		}
		if hresp.StatusCode == http.StatusNotModified && hresp.Header.Get("Content-Length") == "" {
			resp.ContentLength = -1
		}
		return resp, nil
	}
	resp.Trailer = &Header{}
	for name := range hresp.Trailer {
		resp.Trailer.Add(name, "")
	}
	resp.Body = &stdResponseBody{resp: hresp, trailer: resp.Trailer}
	return resp, nil
}

// responseHeader keeps end-to-end fields only.
func responseHeader(h http.Header) Header {
	connection := h["Connection"]
	fields := fieldsOfStd(h)
	kept := fields[:0]
	for _, f := range fields {
		if !isHopByHop(f.Name) && !listedBy(connection, f.Name) {
			kept = append(kept, f)
		}
	}
	return Header{fields: kept}
}

// stdResponseBody fills the trailer when the body has ended.
type stdResponseBody struct {
	resp    *http.Response
	trailer *Header
}

func (b *stdResponseBody) Read(p []byte) (int, error) {
	n, err := b.resp.Body.Read(p)
	if err == io.EOF {
		*b.trailer = trailerOfStd(b.resp.Trailer)
	}
	return n, err
}

func (b *stdResponseBody) Close() error { return b.resp.Body.Close() }
