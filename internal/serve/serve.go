// Package serve is the accept loop of everything that listens: it hands out
// connections, and when it is told to stop it lets those under way finish for a
// while before it cuts them.
//
// It knows nothing of what the connections carry, and nothing of Towpath.
package serve

import (
	"context"
	"errors"
	"net"
	"sync"
	"time"
)

// Handler owns the connection and closes it. Its context is cancelled when the
// drain budget is spent, not when the accept loop stops.
type Handler func(ctx context.Context, c net.Conn)

// Accept hands every connection of ln to a goroutine of its own until ctx is
// done; then it closes ln, waits up to drain for the handlers, cancels the
// context of those that are left and waits for them. It returns nil after that,
// or the error that ended accepting.
func Accept(ctx context.Context, ln net.Listener, handle Handler, drain time.Duration) error {
	connCtx, cut := context.WithCancel(context.WithoutCancel(ctx))
	defer cut()
	stop := context.AfterFunc(ctx, func() { ln.Close() })
	defer stop()

	var handlers sync.WaitGroup
	err := acceptAll(ctx, ln, func(c net.Conn) {
		handlers.Go(func() { handle(connCtx, c) })
	})
	ln.Close()
	waitOrCut(&handlers, cut, drain)
	return err
}

func acceptAll(ctx context.Context, ln net.Listener, each func(net.Conn)) error {
	var pause time.Duration
	for {
		c, err := ln.Accept()
		switch {
		case err == nil:
			pause = 0
			each(c)
		case ctx.Err() != nil:
			return nil
		case errors.Is(err, net.ErrClosed):
			return err
		default:
			// Out of descriptors, or a peer that left again: neither is a reason
			// to stop listening for everybody else.
			pause = min(max(2*pause, 5*time.Millisecond), time.Second)
			if !sleep(ctx, pause) {
				return nil
			}
		}
	}
}

func sleep(ctx context.Context, d time.Duration) bool {
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-ctx.Done():
		return false
	case <-t.C:
		return true
	}
}

func waitOrCut(handlers *sync.WaitGroup, cut func(), drain time.Duration) {
	t := time.AfterFunc(drain, cut)
	defer t.Stop()
	handlers.Wait()
}
