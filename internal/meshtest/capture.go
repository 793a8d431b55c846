package meshtest

import (
	"context"
	"errors"
	"os"
	"sync"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// Wire is a running capture of everything that crosses the bridge, on the
// links of the pods.
type Wire struct {
	file *os.File

	mu     sync.Mutex
	frames []byte
}

// Capture listens until the test ends.
func Capture(t testing.TB) *Wire {
	t.Helper()
	// All links of the lab's namespace: what goes from one pod to another does
	// not pass the bridge device itself.
	const all = unix.ETH_P_ALL
	network := uint16(all>>8 | all<<8&0xff00) // network byte order
	fd, err := unix.Socket(unix.AF_PACKET, unix.SOCK_RAW|unix.SOCK_NONBLOCK|unix.SOCK_CLOEXEC, int(network))
	must(t, "capture", err)
	must(t, "capture", unix.SetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_RCVBUFFORCE, 16<<20))
	w := &Wire{file: os.NewFile(uintptr(fd), "capture")}
	var wg sync.WaitGroup
	wg.Go(w.read)
	t.Cleanup(func() {
		w.file.Close()
		wg.Wait()
	})
	return w
}

func (w *Wire) read() {
	buf := make([]byte, 256<<10)
	for {
		n, err := w.file.Read(buf)
		if err != nil {
			return
		}
		w.mu.Lock()
		w.frames = append(w.frames, buf[:n]...)
		w.mu.Unlock()
	}
}

// Frames returns what was captured, one frame after the other, once nothing has
// come for a moment.
func (w *Wire) Frames() []byte {
	ctx, cancel := context.WithTimeout(context.Background(), 2*time.Second)
	defer cancel()
	for last := -1; ; {
		w.mu.Lock()
		n := len(w.frames)
		frames := append([]byte(nil), w.frames...)
		w.mu.Unlock()
		if n == last || errors.Is(ctx.Err(), context.DeadlineExceeded) {
			return frames
		}
		last = n
		<-timeout(50 * time.Millisecond)
	}
}

// Forget drops what was captured so far.
func (w *Wire) Forget() {
	w.Frames()
	w.mu.Lock()
	defer w.mu.Unlock()
	w.frames = nil
}
