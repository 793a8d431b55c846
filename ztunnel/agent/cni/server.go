package cni

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"net"
	"os"
	"sync"
	"time"

	"golang.org/x/sys/unix"

	"github.com/towpath-mesh/towpath/ztunnel/netns"
)

// readTimeout bounds the time between a connection and its request.
const readTimeout = 5 * time.Second

// Handler decides on a request; nil lets the pod go on, and the text of an
// error is what kubelet shows. It takes over ns, which is nil if the request
// came without: a Del may. ctx ends when the plugin goes away.
type Handler func(ctx context.Context, r Request, ns *netns.NS) error

// Server is the agent's end of the protocol.
type Server struct {
	// Path of the unix socket; a stale one is replaced. Only root may connect.
	Path   string
	Handle Handler
	Log    *slog.Logger
}

// Run listens and serves until ctx ends and all handlers have returned.
func (s *Server) Run(ctx context.Context) error {
	if err := os.Remove(s.Path); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return fmt.Errorf("cni socket: %w", err)
	}
	ln, err := net.ListenUnix("unixpacket", &net.UnixAddr{Name: s.Path, Net: "unixpacket"})
	if err != nil {
		return fmt.Errorf("cni socket: %w", err)
	}
	ln.SetUnlinkOnClose(false) // a successor's may be there by then
	defer ln.Close()
	if err := os.Chmod(s.Path, 0o600); err != nil {
		return fmt.Errorf("cni socket: %w", err)
	}
	var wg sync.WaitGroup
	defer wg.Wait()
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	stop := context.AfterFunc(ctx, func() { _ = ln.Close() })
	defer stop()
	for {
		conn, err := ln.AcceptUnix()
		if ctx.Err() != nil {
			return ctx.Err()
		}
		if err != nil {
			return fmt.Errorf("cni socket: %w", err)
		}
		wg.Go(func() { s.serve(ctx, conn) })
	}
}

func (s *Server) serve(ctx context.Context, conn *net.UnixConn) {
	defer conn.Close()
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	if err := onlyRoot(conn); err != nil {
		s.Log.Warn("refused a connection on the cni socket", "error", err)
		return
	}
	r, ns, err := receive(conn)
	if err == nil {
		stop := watch(conn, cancel)
		err = s.Handle(ctx, r, ns)
		stop()
	}
	var answer response
	if err != nil {
		answer.Error = err.Error()
		s.Log.Warn("pod is kept from starting", "namespace", r.Namespace, "pod", r.Name, "error", err)
		answer.Error = answer.Error[:min(len(answer.Error), maxError)]
	}
	b, err := json.Marshal(answer)
	if err == nil {
		_ = conn.SetWriteDeadline(time.Now().Add(readTimeout))
		_, err = conn.Write(b)
	}
	if err != nil && ctx.Err() == nil {
		s.Log.Warn("cannot answer the cni plugin", "error", err)
	}
}

// watch calls gone when the plugin closes the connection. stop ends it and
// waits for that.
func watch(conn *net.UnixConn, gone func()) (stop func()) {
	_ = conn.SetReadDeadline(time.Time{})
	done := make(chan struct{})
	go func() {
		defer close(done)
		var b [1]byte
		if _, err := conn.Read(b[:]); !errors.Is(err, os.ErrDeadlineExceeded) {
			gone()
		}
	}()
	return func() {
		_ = conn.SetReadDeadline(time.Unix(1, 0))
		<-done
	}
}

func onlyRoot(conn *net.UnixConn) error {
	raw, err := conn.SyscallConn()
	if err != nil {
		return err
	}
	var cred *unix.Ucred
	ctlErr := raw.Control(func(fd uintptr) {
		cred, err = unix.GetsockoptUcred(int(fd), unix.SOL_SOCKET, unix.SO_PEERCRED)
	})
	if err := errors.Join(ctlErr, err); err != nil {
		return err
	}
	if cred.Uid != 0 {
		return fmt.Errorf("uid %d (pid %d) may not connect", cred.Uid, cred.Pid)
	}
	return nil
}

// receive reads the one request. The caller closes ns, which may be nil.
func receive(conn *net.UnixConn) (Request, *netns.NS, error) {
	if err := conn.SetReadDeadline(time.Now().Add(readTimeout)); err != nil {
		return Request{}, nil, err
	}
	buf, oob := make([]byte, maxPacket), make([]byte, unix.CmsgSpace(4*4))
	n, oobn, flags, _, err := conn.ReadMsgUnix(buf, oob)
	if err != nil {
		return Request{}, nil, fmt.Errorf("read request: %w", err)
	}
	fds := descriptors(oob[:oobn])
	r, err := decodeRequest(buf[:n])
	switch {
	case err != nil:
	case flags&(unix.MSG_TRUNC|unix.MSG_CTRUNC) != 0:
		err = errors.New("request was cut")
	case len(fds) > 1 || (len(fds) == 0 && r.Command == Add):
		err = fmt.Errorf("request with %d descriptors, want the network namespace", len(fds))
	case len(fds) == 1:
		ns, err := netns.FromFD(fds[0])
		return r, ns, err
	}
	for _, fd := range fds {
		_ = unix.Close(fd)
	}
	return r, nil, err
}

func descriptors(oob []byte) []int {
	cmsgs, err := unix.ParseSocketControlMessage(oob)
	if err != nil {
		return nil
	}
	var fds []int
	for i := range cmsgs {
		got, err := unix.ParseUnixRights(&cmsgs[i])
		if err == nil {
			fds = append(fds, got...)
		}
	}
	return fds
}
