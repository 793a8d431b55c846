package wire

import (
	"context"
	"errors"
	"io"
	"log/slog"
	"maps"
	"net"
	"net/http"
	"slices"
	"sync"
	"sync/atomic"
	"time"
)

// StdServer is the Server that stands on net/http.
type StdServer struct {
	// Log takes what net/http complains about, at level debug: all of it is
	// about what peers do.
	Log *slog.Logger
}

// Serve implements Server.
func (s *StdServer) Serve(ctx context.Context, conn net.Conn, h Handler, drain <-chan struct{}) error {
	ln := newOneConn(newGuard(conn))
	var handlers, drainer sync.WaitGroup
	srv := &http.Server{
		Handler: http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			handlers.Add(1)
			defer handlers.Done()
			serveStd(ctx, w, r, h)
		}),
		ReadHeaderTimeout:            HeaderTimeout,
		IdleTimeout:                  IdleTimeout,
		MaxHeaderBytes:               MaxHeaderBytes,
		DisableGeneralOptionsHandler: true,
		Protocols:                    stdProtocols(),
		HTTP2:                        stdHTTP2(),
		BaseContext:                  func(net.Listener) context.Context { return ctx },
		ConnContext:                  withGuard,
		ConnState:                    ln.track,
		ErrorLog:                     slog.NewLogLogger(s.Log.Handler(), slog.LevelDebug),
	}
	limitValues(srv)
	stop := context.AfterFunc(ctx, func() { conn.Close() })
	defer stop()
	drainer.Go(func() {
		select {
		case <-drain:
			srv.Shutdown(ctx) // its error is that of ctx
		case <-ln.ended:
		}
	})
	err := srv.Serve(ln)
	<-ln.ended
	drainer.Wait()
	handlers.Wait()
	conn.Close()
	if errors.Is(err, http.ErrServerClosed) || errors.Is(err, net.ErrClosed) {
		err = nil
	}
	return err
}

func stdProtocols() *http.Protocols {
	p := new(http.Protocols)
	p.SetHTTP1(true)
	p.SetUnencryptedHTTP2(true)
	return p
}

func stdHTTP2() *http.HTTP2Config {
	return &http.HTTP2Config{
		MaxConcurrentStreams:          MaxStreams,
		MaxReceiveBufferPerConnection: 4 << 20,
		MaxReceiveBufferPerStream:     1 << 20,
	}
}

// oneConn is a listener that hands out one connection and is exhausted when
// that has ended.
type oneConn struct {
	conn  chan net.Conn
	addr  net.Addr
	ended chan struct{}
	once  sync.Once
	shut  chan struct{}
	close sync.Once
}

func newOneConn(c net.Conn) *oneConn {
	l := &oneConn{conn: make(chan net.Conn, 1), addr: c.LocalAddr(), ended: make(chan struct{}), shut: make(chan struct{})}
	l.conn <- c
	return l
}

// Accept is part of net.Listener. The connection comes first even when the
// listener was closed meanwhile, or nobody would close it.
func (l *oneConn) Accept() (net.Conn, error) {
	select {
	case c := <-l.conn:
		return c, nil
	default:
	}
	select {
	case <-l.ended:
	case <-l.shut:
	}
	return nil, net.ErrClosed
}

// Close is part of net.Listener.
func (l *oneConn) Close() error {
	l.close.Do(func() { close(l.shut) })
	return nil
}

// Addr is part of net.Listener.
func (l *oneConn) Addr() net.Addr { return l.addr }

// track learns the end of the connection; a hijacked one lives on in its
// handler.
func (l *oneConn) track(_ net.Conn, state http.ConnState) {
	if state == http.StateClosed || state == http.StateHijacked {
		l.once.Do(func() { close(l.ended) })
	}
}

// serveStd turns one request of net/http into a message and runs the handler.
// ctx is that of the connection.
func serveStd(ctx context.Context, w http.ResponseWriter, r *http.Request, h Handler) {
	rw := &stdResponder{conn: ctx, w: w, r: r, rc: http.NewResponseController(w)}
	req := requestOfStd(r, rw.rc)
	rw.last = req.Upgrade != "" || req.Refused != nil && req.Proto != HTTP2
	if body := req.Body; body != nil {
		defer body.Close()
		if req.Proto != HTTP2 {
			_ = rw.rc.EnableFullDuplex() // never fails for HTTP/1
		}
	}
	h(r.Context(), req, rw)
	if rw.abort || !rw.sent {
		panic(http.ErrAbortHandler)
	}
}

func requestOfStd(r *http.Request, rc *http.ResponseController) *Request {
	if s := refusedBy(r); s != nil {
		return refusedRequest(s)
	}
	hd := head{proto: protoOfStd(r), method: r.Method, target: r.RequestURI, scheme: "http", authority: r.Host}
	hasBody := r.Body != nil && r.Body != http.NoBody && r.ContentLength != 0
	hd.hasBody = hasBody
	hd.host = r.Header["Host"]
	hd.fields = fieldsOfStd(r.Header)
	req := hd.request()
	req.ContentLength = 0
	req.ExpectContinue = EqualName(r.Header.Get("Expect"), "100-continue")
	if !hasBody {
		return req
	}
	req.ContentLength = r.ContentLength
	if len(r.Trailer) > 0 {
		req.Trailer = &Header{}
		for name := range r.Trailer {
			req.Trailer.Add(name, "")
		}
	}
	req.Body = &stdRequestBody{r: r, rc: rc, guard: guardOf(r), trailer: req.Trailer}
	return req
}

// refusedRequest is what could be told of a request whose head was refused.
func refusedRequest(s *h1Stream) *Request {
	return &Request{Proto: HTTP11, Method: printable(s.head.method), Scheme: "http", Path: printable(s.head.target), Refused: s.refused}
}

func protoOfStd(r *http.Request) Proto {
	switch {
	case r.ProtoMajor == 2:
		return HTTP2
	case r.ProtoAtLeast(1, 1):
		return HTTP11
	}
	return HTTP10
}

// fieldsOfStd puts the fields in an order of their own: net/http has lost that
// of the wire.
func fieldsOfStd(h http.Header) []Field {
	fields := make([]Field, 0, len(h)+4)
	for _, name := range slices.Sorted(maps.Keys(h)) {
		for _, v := range h[name] {
			fields = append(fields, Field{Name: name, Value: v})
		}
	}
	return fields
}

// stdRequestBody fills the trailer when the body has ended.
type stdRequestBody struct {
	r       *http.Request
	rc      *http.ResponseController
	guard   *guard // nil when there is none
	trailer *Header
	ended   atomic.Bool
}

// Close makes reads fail by the only means that net/http has for one under way.
func (b *stdRequestBody) Close() error {
	if b.ended.Swap(true) {
		return nil
	}
	return b.rc.SetReadDeadline(time.Unix(1, 0))
}

func (b *stdRequestBody) Read(p []byte) (int, error) {
	n, err := b.r.Body.Read(p)
	if err == io.EOF {
		b.ended.Store(true)
	} else if err != nil && b.guard != nil && b.guard.badBody.Load() {
		err = bad(errRefusedBody.Error())
	}
	if err == io.EOF && b.trailer != nil {
		*b.trailer = trailerOfStd(b.r.Trailer)
	}
	return n, err
}

// trailerOfStd keeps end-to-end fields only: what may not stand in a header may
// not come in through a trailer either.
func trailerOfStd(h http.Header) Header {
	fields := fieldsOfStd(h)
	kept := fields[:0]
	for _, f := range fields {
		if !isHopByHop(f.Name) {
			kept = append(kept, f)
		}
	}
	return Header{fields: kept}
}
