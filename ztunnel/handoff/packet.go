package handoff

import (
	"errors"
	"fmt"
	"io"
	"net"
	"sync"
	"time"

	"golang.org/x/sys/unix"
)

// sendTimeout bounds one send: a peer that does not read is as good as gone.
const sendTimeout = 5 * time.Second

// link is one connection of the protocol: whole messages with descriptors.
// Reads are for one goroutine, sends for any number.
type link struct {
	conn *net.UnixConn
	mu   sync.Mutex // serialises sends
	buf  []byte
	oob  []byte
}

func newLink(conn *net.UnixConn) *link {
	return &link{
		conn: conn,
		buf:  make([]byte, maxPacket+1),
		oob:  make([]byte, unix.CmsgSpace(4*(maxFDs+1))),
	}
}

// errGone is what those who wait for a peer get when it goes away.
var errGone = errors.New("peer went away")

// send sends one message, or closes the connection and returns errGone. The descriptors stay the caller's, who must not close
// them before send returns.
func (l *link) send(m message, fds ...int) error {
	b, err := m.encode()
	if err != nil {
		return err
	}
	var rights []byte
	if len(fds) > 0 {
		rights = unix.UnixRights(fds...)
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	if err := l.conn.SetWriteDeadline(time.Now().Add(sendTimeout)); err != nil {
		return err
	}
	if _, _, err := l.conn.WriteMsgUnix(b, rights, nil); err != nil {
		l.close()
		return fmt.Errorf("send %s: %w: %w", m.Kind, errGone, err)
	}
	return nil
}

// receive returns the next message. The caller owns its descriptors, which are
// close-on-exec; with an error there are none. io.EOF means that the peer went
// away.
func (l *link) receive() (message, []int, error) {
	n, oobn, flags, _, err := l.conn.ReadMsgUnix(l.buf, l.oob)
	if err != nil {
		return message{}, nil, err
	}
	fds, err := rightsOf(l.oob[:oobn])
	if err == nil && n == 0 {
		err = io.EOF
	}
	if err == nil && flags&(unix.MSG_TRUNC|unix.MSG_CTRUNC) != 0 {
		err = errors.New("message was cut")
	}
	var m message
	if err == nil {
		m, err = decode(l.buf[:n], len(fds))
	}
	if err != nil {
		closeAll(fds)
		return message{}, nil, err
	}
	return m, fds, nil
}

// receiveWithin is receive with a time limit.
func (l *link) receiveWithin(d time.Duration) (message, []int, error) {
	if err := l.conn.SetReadDeadline(time.Now().Add(d)); err != nil {
		return message{}, nil, err
	}
	m, fds, err := l.receive()
	if err != nil {
		return m, fds, err
	}
	return m, fds, l.conn.SetReadDeadline(time.Time{})
}

func (l *link) close() { _ = l.conn.Close() }

// rightsOf returns all descriptors of the control messages, also with an error.
func rightsOf(oob []byte) ([]int, error) {
	if len(oob) == 0 {
		return nil, nil
	}
	cmsgs, err := unix.ParseSocketControlMessage(oob)
	if err != nil {
		return nil, fmt.Errorf("control message: %w", err)
	}
	var fds []int
	for i := range cmsgs {
		got, err := unix.ParseUnixRights(&cmsgs[i])
		if err != nil {
			return fds, fmt.Errorf("control message: %w", err)
		}
		fds = append(fds, got...)
	}
	return fds, nil
}

func closeAll(fds []int) {
	for _, fd := range fds {
		_ = unix.Close(fd)
	}
}
