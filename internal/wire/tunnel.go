package wire

import (
	"context"
	"errors"
	"io"
	"net"
	"sync"
	"time"
)

// tunnelLinger is how long one direction of a tunnel may stay open after the
// other has ended.
const tunnelLinger = 30 * time.Second

var copyBuffers = sync.Pool{New: func() any { b := make([]byte, 32<<10); return &b }}

type halfCloser interface{ CloseWrite() error }

// hijacked is a connection of which some bytes were read already.
type hijacked struct {
	net.Conn
	r io.Reader
}

func (h hijacked) Read(p []byte) (int, error) { return h.r.Read(p) }

// CloseWrite ends the direction towards the peer.
func (h hijacked) CloseWrite() error {
	if c, ok := h.Conn.(halfCloser); ok {
		return c.CloseWrite()
	}
	return nil
}

// tunnel joins both ends until both directions have ended, one has failed, or
// ctx is done; then they are closed. A direction that has ended is closed
// towards the other side, and the rest gets a while to end too.
func tunnel(ctx context.Context, client, server io.ReadWriteCloser) (Sent, error) {
	return join(ctx, client, server, tunnelLinger)
}

// join copies both ways. linger bounds the second direction after the end of
// the first; 0 does not.
func join(ctx context.Context, client, server io.ReadWriteCloser, linger time.Duration) (Sent, error) {
	cut := func() { client.Close(); server.Close() }
	stop := context.AfterFunc(ctx, cut)
	defer stop()
	defer cut()

	type end struct {
		n    int64
		err  error
		down bool // towards the client
	}
	ends := make(chan end, 2)
	var group sync.WaitGroup
	group.Go(func() { n, err := pipe(server, client); ends <- end{n: n, err: err} })
	group.Go(func() { n, err := pipe(client, server); ends <- end{n: n, err: err, down: true} })

	var sent Sent
	var first error
	for i := range 2 {
		e := <-ends
		if e.down {
			sent.Body = e.n
		} else {
			sent.Received = e.n
		}
		if e.err != nil {
			if first == nil {
				first = e.err
			}
			cut()
		} else if i == 0 && linger > 0 {
			timer := time.AfterFunc(linger, cut)
			defer timer.Stop()
		}
	}
	group.Wait()
	return sent, first
}

// pipe copies one direction and passes on its end.
func pipe(dst io.Writer, src io.Reader) (int64, error) {
	buf := copyBuffers.Get().(*[]byte)
	defer copyBuffers.Put(buf)
	n, err := io.CopyBuffer(writerOnly{dst}, readerOnly{src}, *buf) // neither brings a buffer of its own
	if err != nil {
		if errors.Is(err, net.ErrClosed) {
			err = nil
		}
		return n, err
	}
	if c, ok := dst.(halfCloser); ok {
		return n, c.CloseWrite()
	}
	return n, nil
}

type writerOnly struct{ io.Writer }
type readerOnly struct{ io.Reader }

// Copy joins two connections until both directions have ended, one has failed,
// or ctx is done; it closes both. up counts the bytes from client to server,
// down the others.
func Copy(ctx context.Context, client, server net.Conn) (up, down int64, err error) {
	sent, err := join(ctx, client, server, 0)
	return sent.Received, sent.Body, err
}
