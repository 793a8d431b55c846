package hbone

import (
	"bufio"
	"net"
	"sync"
)

const (
	// socketBuffer is how much one read of the socket may bring in. Without
	// it crypto/tls reads the socket once for each record.
	socketBuffer = 64 << 10
	// maxBatch is how many encrypted bytes are gathered for one write.
	maxBatch = 512 << 10
)

// batchConn sits between crypto/tls and the socket. crypto/tls writes each
// record of 16 KiB by itself; between begin and flush the records are gathered
// into one write. Outside of that, writes pass straight through: handshakes
// and alerts must not wait.
type batchConn struct {
	net.Conn
	r *bufio.Reader

	mu       sync.Mutex
	batching bool
	buf      []byte
}

func newBatchConn(c net.Conn) *batchConn {
	return &batchConn{Conn: c, r: bufio.NewReaderSize(c, socketBuffer)}
}

func (b *batchConn) Read(p []byte) (int, error) { return b.r.Read(p) }

func (b *batchConn) Write(p []byte) (int, error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	if !b.batching {
		return b.Conn.Write(p)
	}
	if len(b.buf)+len(p) > maxBatch {
		if err := b.writeOut(); err != nil {
			return 0, err
		}
	}
	b.buf = append(b.buf, p...)
	return len(p), nil
}

// begin makes Write gather; buf is the memory to gather in.
func (b *batchConn) begin(buf []byte) {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.batching, b.buf = true, buf[:0]
}

// flush writes what was gathered, ends the gathering and gives the memory back.
func (b *batchConn) flush() (buf []byte, err error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	err = b.writeOut()
	buf, b.buf, b.batching = b.buf, nil, false
	return buf, err
}

func (b *batchConn) writeOut() error {
	if len(b.buf) == 0 {
		return nil
	}
	_, err := b.Conn.Write(b.buf)
	b.buf = b.buf[:0]
	return err
}
