package hbone

import (
	"fmt"
	"io"
	"sync"
	"testing"
)

// The benchmarks run both ends of the tunnel in this process: halve the time
// for the cost of one end.

// BenchmarkPingPong sends a message and waits for its echo, on several tunnels
// of one connection.
func BenchmarkPingPong(b *testing.B) {
	for _, tc := range []struct{ streams, size int }{{1, 1 << 10}, {64, 1 << 10}, {100, 200}, {16, 64 << 10}} {
		b.Run(fmt.Sprintf("%dx%d", tc.streams, tc.size), func(b *testing.B) {
			r := newRig(b, rigOptions{}, echo)
			conns := make([]*Conn, tc.streams)
			for i := range conns {
				conns[i] = r.dial()
			}
			b.SetBytes(int64(2 * tc.size))
			b.ReportAllocs()
			b.ResetTimer()
			var wg sync.WaitGroup
			for i, c := range conns {
				rounds := (b.N + tc.streams - 1 - i) / tc.streams
				wg.Go(func() { pingPong(b, c, rounds, tc.size) })
			}
			wg.Wait()
		})
	}
}

func pingPong(b *testing.B, c *Conn, rounds, size int) {
	buf := make([]byte, size)
	for range rounds {
		if _, err := c.Write(buf); err != nil {
			b.Error(err)
			return
		}
		if _, err := io.ReadFull(c, buf); err != nil {
			b.Error(err)
			return
		}
	}
}

// BenchmarkBulk sends in one direction.
func BenchmarkBulk(b *testing.B) {
	accepted := make(chan *Conn, 1)
	r := newRig(b, rigOptions{}, hold(accepted))
	c := r.dial()
	go io.Copy(io.Discard, <-accepted)
	buf := make([]byte, 64<<10)
	b.SetBytes(int64(len(buf)))
	b.ResetTimer()
	for range b.N {
		if _, err := c.Write(buf); err != nil {
			b.Fatal(err)
		}
	}
}

// BenchmarkConnect opens a tunnel on a pooled connection, exchanges 100 bytes
// and closes it.
func BenchmarkConnect(b *testing.B) {
	r := newRig(b, rigOptions{}, echo)
	buf := make([]byte, 100)
	r.dial().Close()
	b.ReportAllocs()
	b.ResetTimer()
	for range b.N {
		c, err := r.dialer.Dial(b.Context(), r.request())
		if err != nil {
			b.Fatal(err)
		}
		c.Write(buf)
		c.CloseWrite()
		if _, err := io.ReadFull(c, buf); err != nil {
			b.Fatal(err)
		}
		c.Close()
	}
}
