package waypoint

import (
	"bytes"
	"context"
	"errors"
	"io"
	"math/rand/v2"
	"net"
	"time"

	"github.com/towpath-mesh/towpath/internal/mesh"
	"github.com/towpath-mesh/towpath/internal/routing"
	"github.com/towpath-mesh/towpath/internal/wire"
	"github.com/towpath-mesh/towpath/waypoint/upstream"
)

var errNoEndpoint = errors.New(upstream.ReasonNoEndpoint)

const (
	// maxMirrorBody bounds what a copy of a request may hold in memory; a
	// larger one is not mirrored.
	maxMirrorBody = 1 << 20
	// mirrorTimeout bounds a mirrored request: nobody waits for it.
	mirrorTimeout = 15 * time.Second
)

// mirror sends copies of the request where the filters say. The answers are
// ignored. A body is copied while the backend reads it, and the copy is sent
// when that has come to the end.
func (c *connection) mirror(r *rule, b *backend, req *wire.Request) {
	for _, chain := range []interface{ Mirrors() []*routing.Mirror }{r.filters, b.filters} {
		for _, m := range chain.Mirrors() {
			if m.Invalid == "" && takesPart(m) && req.Upgrade == "" {
				c.mirrorTo(m, req)
			}
		}
	}
}

func takesPart(m *routing.Mirror) bool {
	return m.Denominator == 0 || m.Numerator >= m.Denominator || rand.Uint32N(m.Denominator) < m.Numerator
}

func (c *connection) mirrorTo(m *routing.Mirror, req *wire.Request) {
	dup := *req
	dup.Header = req.Header.Clone()
	dup.Trailer, dup.ExpectContinue = nil, false
	send := func() { c.p.mirrors.Go(func() { c.p.sendMirror(m, c.visitor.source, &dup) }) }
	if req.Body == nil {
		send()
		return
	}
	req.Body = &mirroredBody{ReadCloser: req.Body, whole: func(body []byte) {
		dup.Body, dup.ContentLength = io.NopCloser(bytes.NewReader(body)), int64(len(body))
		send()
	}}
}

func (p *Proxy) sendMirror(m *routing.Mirror, from upstream.Source, req *wire.Request) {
	ctx, cancel := context.WithTimeout(p.draining, mirrorTimeout)
	defer cancel()
	res := p.forward.Forward(ctx, upstream.Call{
		Request: req, Service: m.Service, Port: m.Port, H2C: m.H2C || req.Proto == wire.HTTP2, From: from, Observer: unobserved{},
	})
	if res.Failure != nil {
		p.metrics.mirrored.WithLabelValues("error").Inc()
		return
	}
	p.metrics.mirrored.WithLabelValues("ok").Inc()
	if res.Response.Body != nil {
		_, _ = io.Copy(io.Discard, res.Response.Body) // only to keep the connection
	}
	res.Response.Close()
	res.Done(nil)
}

// mirroredBody keeps what is read, up to a limit, and hands it over at the end.
type mirroredBody struct {
	io.ReadCloser
	kept  []byte
	whole func([]byte)
}

func (b *mirroredBody) Read(p []byte) (int, error) {
	n, err := b.ReadCloser.Read(p)
	if b.whole == nil {
		return n, err
	}
	if len(b.kept)+n > maxMirrorBody {
		b.kept, b.whole = nil, nil
		return n, err
	}
	b.kept = append(b.kept, p[:n]...)
	if err == io.EOF {
		b.whole(b.kept)
		b.whole = nil
	}
	return n, err
}

// unobserved is the Observer of requests that are nobody's.
type unobserved struct{}

func (unobserved) Begin(ctx context.Context, _ int, _ mesh.Target) (context.Context, string) {
	return ctx, ""
}
func (unobserved) Connected(context.Context, net.Conn, bool) {}
func (unobserved) End(context.Context, int, error)           {}
