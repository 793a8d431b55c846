// Package netns enters network namespaces: it runs a function on a thread of
// its own inside one. A namespace is held by a descriptor and told from others
// by its inode, so that a path or process that is reused does not matter.
//
// It knows nothing of pods or of what is done inside.
package netns

import (
	"fmt"
	"os"
	"runtime"
	"sync"

	"golang.org/x/sys/unix"
)

// NS is an open network namespace. It lives as long as the NS is not closed,
// even when no process is left in it.
type NS struct {
	mu    sync.RWMutex // keeps file open while a thread enters
	file  *os.File
	inode uint64
}

// Open opens the namespace at a path such as /proc/<pid>/ns/net or
// /run/netns/<name>.
func Open(path string) (*NS, error) {
	f, err := os.Open(path)
	if err != nil {
		return nil, fmt.Errorf("open network namespace: %w", err)
	}
	return fromFile(f)
}

// FromFD takes over a descriptor of a network namespace, also when it fails.
func FromFD(fd int) (*NS, error) {
	return fromFile(os.NewFile(uintptr(fd), "netns"))
}

// Self opens the namespace of the calling thread.
func Self() (*NS, error) { return Open("/proc/thread-self/ns/net") }

func fromFile(f *os.File) (*NS, error) {
	if f == nil {
		return nil, fmt.Errorf("network namespace: bad descriptor")
	}
	kind, err := unix.IoctlRetInt(int(f.Fd()), unix.NS_GET_NSTYPE)
	if err != nil || kind != unix.CLONE_NEWNET {
		_ = f.Close()
		return nil, fmt.Errorf("%s is not a network namespace", f.Name())
	}
	var st unix.Stat_t
	if err := unix.Fstat(int(f.Fd()), &st); err != nil {
		_ = f.Close()
		return nil, fmt.Errorf("stat network namespace: %w", err)
	}
	return &NS{file: f, inode: st.Ino}, nil
}

// Inode is the namespace's number; no two that are open at once share it.
func (n *NS) Inode() uint64 { return n.inode }

// FD is the namespace's descriptor; it stays the NS's, which must not be closed
// while it is used.
func (n *NS) FD() int { return int(n.file.Fd()) }

// Close closes the descriptor, after every Do has returned.
func (n *NS) Close() error {
	n.mu.Lock()
	defer n.mu.Unlock()
	return n.file.Close()
}

// Do runs f inside the namespace, on a thread of its own, and waits for it.
// Goroutines that f starts run outside. It needs CAP_SYS_ADMIN.
func (n *NS) Do(f func() error) error {
	n.mu.RLock()
	defer n.mu.RUnlock()
	done := make(chan error, 1)
	go func() { done <- n.inside(f) }()
	return <-done
}

// inside leaves the thread locked, and so lets it end with its goroutine, when
// it cannot be brought back.
func (n *NS) inside(f func() error) error {
	runtime.LockOSThread()
	home, err := os.Open("/proc/thread-self/ns/net")
	if err != nil {
		runtime.UnlockOSThread()
		return fmt.Errorf("own network namespace: %w", err)
	}
	defer home.Close()
	if err := unix.Setns(n.FD(), unix.CLONE_NEWNET); err != nil {
		runtime.UnlockOSThread()
		return fmt.Errorf("enter network namespace: %w", err)
	}
	ferr := f()
	if err := unix.Setns(int(home.Fd()), unix.CLONE_NEWNET); err != nil {
		return ferr
	}
	runtime.UnlockOSThread()
	return ferr
}
