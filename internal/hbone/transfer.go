package hbone

import (
	"io"
	"net"
	"sync"
)

// takeLimit is how much received data goes to the socket in one write.
const takeLimit = 256 << 10

// WriteTo implements io.WriterTo: it writes what the peer sends to w, without
// copying it first, until the peer's direction ends.
func (c *Conn) WriteTo(w io.Writer) (n int64, err error) {
	var blocks []*block
	var parts net.Buffers
	for {
		if blocks, err = c.take(blocks[:0]); err != nil {
			if err == io.EOF {
				err = nil
			}
			return n, err
		}
		parts = parts[:0]
		for _, b := range blocks {
			parts = append(parts, b.buf[b.r:b.w])
		}
		want := size(blocks)
		m, err := writeParts(w, parts)
		n += m
		for _, b := range blocks {
			b.free()
		}
		c.s.mu.Lock()
		c.credit(want)
		c.s.mu.Unlock()
		if err != nil {
			return n, err
		}
	}
}

func size(blocks []*block) (n int) {
	for _, b := range blocks {
		n += b.w - b.r
	}
	return n
}

// BuffersWriter is a writer that takes several buffers at once, as a socket
// does. WriteTo uses it if its writer has it.
type BuffersWriter interface {
	WriteBuffers(parts *net.Buffers) (int64, error)
}

func writeParts(w io.Writer, parts net.Buffers) (int64, error) {
	if len(parts) == 1 {
		n, err := w.Write(parts[0])
		return int64(n), err
	}
	if bw, ok := w.(BuffersWriter); ok {
		return bw.WriteBuffers(&parts)
	}
	return parts.WriteTo(w) // writev on a socket
}

func (c *Conn) take(dst []*block) ([]*block, error) {
	c.s.mu.Lock()
	defer c.s.mu.Unlock()
	if err := c.awaitReadable(); err != nil {
		return nil, err
	}
	return c.queue.take(dst, takeLimit), nil
}

// Sizes of the buffer with which ReadFrom reads: a connection that says little
// waits with a small one.
const (
	smallRead = 4 << 10
	largeRead = 64 << 10
)

var largeReads = sync.Pool{New: func() any { b := make([]byte, largeRead); return &b }}

// ReadFrom implements io.ReaderFrom: it sends what r yields, as it comes, until
// io.EOF, which is no error and does not close the direction.
func (c *Conn) ReadFrom(r io.Reader) (n int64, err error) {
	small := make([]byte, smallRead)
	for {
		m, err := r.Read(small)
		if m > 0 {
			if _, werr := c.Write(small[:m]); werr != nil {
				return n, werr
			}
			n += int64(m)
		}
		if err == nil && m == smallRead {
			m, err := c.readMuch(r)
			n += m
			if err != nil {
				return n, notEOF(err)
			}
			continue
		}
		if err != nil {
			return n, notEOF(err)
		}
	}
}

// readMuch goes on with a large buffer for as long as there is much to read.
func (c *Conn) readMuch(r io.Reader) (n int64, err error) {
	buf := largeReads.Get().(*[]byte)
	defer largeReads.Put(buf)
	for {
		m, err := r.Read(*buf)
		if m > 0 {
			if _, werr := c.Write((*buf)[:m]); werr != nil {
				return n, werr
			}
			n += int64(m)
		}
		if err != nil || m < smallRead {
			return n, err
		}
	}
}

func notEOF(err error) error {
	if err == io.EOF {
		return nil
	}
	return err
}
