package handoff

import (
	"context"
	"net/netip"
	"os"
	"time"

	"golang.org/x/sys/unix"
)

// connect binds and connects a fresh non-blocking socket. When ctx ends first
// it returns ctx's error; the caller closes the socket, and with it what is
// half open.
func connect(ctx context.Context, f *os.File, local, remote netip.AddrPort) error {
	if err := ctx.Err(); err != nil {
		return err
	}
	stop := context.AfterFunc(ctx, func() { _ = f.SetWriteDeadline(time.Unix(1, 0)) })
	defer stop()
	raw, err := f.SyscallConn()
	if err != nil {
		return err
	}
	started := false
	var connErr error
	// The poller may wake for the state before the connect: Write calls again
	// until the function says that it is done.
	err = raw.Write(func(fd uintptr) bool {
		if !started {
			started = true
			connErr = start(int(fd), local, remote)
			return connErr != unix.EINPROGRESS
		}
		connErr = progress(int(fd))
		return connErr != unix.EINPROGRESS
	})
	if ctx.Err() != nil && (err != nil || connErr != nil) {
		return ctx.Err()
	}
	if err != nil {
		return err
	}
	return connErr
}

func start(fd int, local, remote netip.AddrPort) error {
	if local.IsValid() {
		local = netip.AddrPortFrom(local.Addr().Unmap(), local.Port())
		if local.Addr().Is4() != remote.Addr().Is4() {
			return os.NewSyscallError("bind", unix.EAFNOSUPPORT)
		}
		if err := unix.Bind(fd, sockaddr(local)); err != nil {
			return os.NewSyscallError("bind", err)
		}
	}
	return connectErr(unix.Connect(fd, sockaddr(remote)))
}

// progress reports EINPROGRESS while the handshake is under way, nil when the
// socket is connected.
func progress(fd int) error {
	soErr, err := unix.GetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_ERROR)
	if err != nil {
		return os.NewSyscallError("getsockopt", err)
	}
	if soErr != 0 {
		return connectErr(unix.Errno(soErr))
	}
	if _, err := unix.Getpeername(fd); err != nil {
		return unix.EINPROGRESS
	}
	return nil
}

func connectErr(err error) error {
	switch err {
	case nil, unix.EISCONN:
		return nil
	case unix.EINPROGRESS, unix.EALREADY, unix.EINTR:
		return unix.EINPROGRESS
	}
	return os.NewSyscallError("connect", err)
}

func sockaddr(a netip.AddrPort) unix.Sockaddr {
	if a.Addr().Is4() {
		return &unix.SockaddrInet4{Port: int(a.Port()), Addr: a.Addr().As4()}
	}
	return &unix.SockaddrInet6{Port: int(a.Port()), Addr: a.Addr().As16()}
}
