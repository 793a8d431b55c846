package meshtest

import (
	"runtime"

	"golang.org/x/sys/unix"
)

// unshareTo makes a network namespace and binds it to path. Its thread is never
// given back: it ends with the goroutine.
func unshareTo(path string) error {
	runtime.LockOSThread()
	if err := unix.Unshare(unix.CLONE_NEWNET); err != nil {
		return err
	}
	return unix.Mount("/proc/thread-self/ns/net", path, "none", unix.MS_BIND, "")
}
