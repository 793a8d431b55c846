package ztunnel

import (
	"context"
	"errors"
	"io"
	"net"
	"sync"
	"sync/atomic"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/towpath-mesh/towpath/internal/hbone"
)

// errCut is why connections end that outlived the drain budget.
var errCut = errors.New("drain budget spent")

// stream is a connection whose directions end one by one.
type stream interface {
	net.Conn
	CloseWrite() error
}

// reset ends a connection so that its peer sees an error, not an end: TCP's RST
// or what the tunnel has for it.
func reset(c net.Conn) {
	switch c := c.(type) {
	case *hbone.Conn:
		c.Reset()
		return
	case *net.TCPConn:
		_ = c.SetLinger(0) // without it the peer reads an orderly end
	}
	_ = c.Close()
}

// meter counts bytes for one connection and for the metrics.
type meter struct {
	n     atomic.Int64
	total prometheus.Counter
}

func (m *meter) add(n int64) {
	if n > 0 {
		m.n.Add(n)
		m.total.Add(float64(n))
	}
}

// relay copies both ways until both directions have ended, and closes both
// connections. A direction that ends in good order closes the writing half of
// the other side; an error, or the end of ctx, resets both. It returns the
// first error.
func relay(ctx context.Context, client, server stream, sent, received *meter) error {
	var once sync.Once
	var first error
	abort := func(err error) {
		once.Do(func() {
			first = err
			reset(client)
			reset(server)
		})
	}
	stop := context.AfterFunc(ctx, func() { abort(context.Cause(ctx)) })
	defer stop()
	half := func(dst, src stream, m *meter) {
		if err := copyHalf(dst, src, m); err != nil {
			abort(err)
		}
	}
	var wg sync.WaitGroup
	wg.Go(func() { half(client, server, received) })
	half(server, client, sent)
	wg.Wait()
	once.Do(func() { // nobody aborted
		_ = client.Close()
		_ = server.Close()
	})
	return first
}

// copyHalf copies one direction to its end and passes the end on.
func copyHalf(dst, src stream, m *meter) error {
	var err error
	switch d := dst.(type) {
	case *hbone.Conn:
		_, err = d.ReadFrom(meteredReader{src, m})
	default:
		if s, ok := src.(*hbone.Conn); ok {
			_, err = s.WriteTo(meteredWriter{dst, m})
		} else {
			err = splice(dst, src, m)
		}
	}
	if err != nil {
		return err
	}
	_ = dst.CloseWrite() // fails if that side has gone; copying the other way finds out
	return nil
}

// spliceStep is how much is spliced between two looks at the count.
const spliceStep = 1 << 20

// splice copies between sockets in the kernel.
func splice(dst io.Writer, src io.Reader, m *meter) error {
	for {
		n, err := io.Copy(dst, &io.LimitedReader{R: src, N: spliceStep})
		m.add(n)
		if err != nil || n < spliceStep {
			return err
		}
	}
}

type meteredReader struct {
	io.Reader
	m *meter
}

func (r meteredReader) Read(p []byte) (int, error) {
	n, err := r.Reader.Read(p)
	r.m.add(int64(n))
	return n, err
}

type meteredWriter struct {
	io.Writer
	m *meter
}

func (w meteredWriter) Write(p []byte) (int, error) {
	n, err := w.Writer.Write(p)
	w.m.add(int64(n))
	return n, err
}

// WriteBuffers implements hbone.BuffersWriter.
func (w meteredWriter) WriteBuffers(parts *net.Buffers) (int64, error) {
	n, err := parts.WriteTo(w.Writer)
	w.m.add(n)
	return n, err
}
