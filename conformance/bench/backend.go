package main

import (
	"bufio"
	"bytes"
	"context"
	"fmt"
	"net"
	"os"
	"time"

	"github.com/towpath-mesh/towpath/internal/serve"
)

// runBackend answers every request with the same body, at as little cost as a
// goroutine for each connection allows: it must not be what is measured. It
// prints its address.
func runBackend(ctx context.Context, body int) error {
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return err
	}
	fmt.Fprintln(os.Stdout, ln.Addr())
	answer := fmt.Appendf(nil, "HTTP/1.1 200 OK\r\nContent-Type: text/plain\r\nContent-Length: %d\r\n\r\n%s", body, bytes.Repeat([]byte("x"), body))
	return serve.Accept(ctx, ln, func(_ context.Context, c net.Conn) {
		defer c.Close()
		r := bufio.NewReader(c)
		for {
			// The requests of this bench have no bodies.
			line, err := r.ReadSlice('\n')
			if err != nil {
				return
			}
			if len(line) > 2 {
				continue
			}
			if _, err := c.Write(answer); err != nil {
				return
			}
		}
	}, time.Second)
}
