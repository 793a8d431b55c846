package hbone

import (
	"bytes"
	"crypto/tls"
	"fmt"
	"net"
	"sync"
	"sync/atomic"
	"time"

	"github.com/spiffe/go-spiffe/v2/spiffeid"
	"golang.org/x/net/http2"
	"golang.org/x/net/http2/hpack"
)

// What both sides offer and observe.
const (
	// maxStreams is how many tunnels a client puts into one connection.
	maxStreams = 100
	// maxServerStreams is how many a server takes.
	maxServerStreams = 200

	streamWindow  = 4 << 20
	connWindow    = 16 << 20 // four full streams do not stop the others
	maxReadFrame  = 256 << 10
	maxWriteFrame = 64 << 10
	// maxPending is how many bytes wait for the socket before writers do.
	maxPending = 256 << 10
	// maxControl is how many bytes of answers to the peer may wait beyond
	// that. A peer that asks and does not read is cut off.
	maxControl = 64 << 10
	// controlBudget is how many frames that make work and carry nothing are
	// taken from a peer between two ticks.
	controlBudget = 1000

	clientHeaderLimit = 16 << 10
	serverHeaderLimit = 64 << 10

	initialPeerWindow = 65535    // RFC 9113 section 6.9.2
	initialPeerFrame  = 16 << 10 // RFC 9113 section 6.5.2
)

// timing holds the intervals of a session.
type timing struct {
	pingEvery   time.Duration // silence after which the peer is pinged
	pingTimeout time.Duration // after which it counts as dead
	idle        time.Duration // without streams before the session is closed
}

// session is one HTTP/2 connection, either side of it. Its run method reads
// and a goroutine of its own writes; streams and everything about them are
// guarded by mu.
type session struct {
	conn   *tls.Conn
	low    *batchConn
	peer   spiffeid.ID
	state  tls.ConnectionState
	timing timing
	// accept is called by the reading goroutine with a new stream; nil on the
	// client's side.
	accept func(*Conn, *http2.MetaHeadersFrame)
	framer *http2.Framer
	done   chan struct{} // closed once err is set
	wake   chan struct{} // tells the writer that there is something to do
	parted chan struct{} // closed once the peer has seen this side's GOAWAY
	active atomic.Bool   // a frame came in since the last tick

	mu      sync.Mutex
	err     error // why the session ended; nil while it lives
	streams map[uint32]*Conn
	blocked []*Conn // writers waiting for the connection's window or buffer

	pending, spare []byte // frames to write; the other half of the pair
	writing        time.Time
	headerCoder    *hpack.Encoder
	headerBlock    bytes.Buffer

	sendWindow    int64
	peerWindow    int64 // initial window of a stream at the peer
	peerFrame     int
	peerStreams   int
	recvWindow    int64
	consumed      int64 // read by the streams, not yet credited to the peer
	greeted       bool  // the peer's SETTINGS came
	nextID        uint32
	lastPeerID    uint32
	reserved      int // streams promised to dialers that have not opened them
	running       int // handlers, server side
	controlFrames int

	timer     *time.Timer
	pingSent  time.Time
	idleSince time.Time
	drain     drainState
	gone      bool  // the peer said GOAWAY
	closing   error // close with this reason once everything is written
}

// drainState is how far this side has come in saying GOAWAY.
type drainState uint8

const (
	drainNone     drainState = iota
	drainAnnounce            // said it is going; still takes what is under way
	drainFinal               // said which stream was the last
)

// drainPing marks the ping whose answer proves that the peer has seen the
// first GOAWAY.
var drainPing = [8]byte{'t', 'o', 'w', 'd', 'r', 'a', 'i', 'n'}

func newSession(conn *tls.Conn, low *batchConn, peer spiffeid.ID, t timing) *session {
	s := &session{
		conn: conn, low: low, peer: peer, state: conn.ConnectionState(), timing: t,
		done: make(chan struct{}), wake: make(chan struct{}, 1), parted: make(chan struct{}),
		streams:    map[uint32]*Conn{},
		sendWindow: initialPeerWindow, peerWindow: initialPeerWindow,
		peerFrame: initialPeerFrame, peerStreams: maxStreams,
		recvWindow: connWindow, idleSince: time.Now(),
	}
	s.headerCoder = hpack.NewEncoder(&s.headerBlock)
	return s
}

// run reads until the session ends and returns why. All goroutines of the
// session have ended then, apart from handlers.
func (s *session) run() error {
	s.mu.Lock()
	s.timer = time.AfterFunc(s.timing.pingEvery, s.tick)
	s.mu.Unlock()
	var writer sync.WaitGroup
	writer.Go(s.writeLoop)
	s.readLoop()
	writer.Wait()
	return s.err
}

// fail ends the session at once; only the first reason counts.
func (s *session) fail(err error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.err != nil {
		return
	}
	s.err = err
	if s.timer != nil {
		s.timer.Stop()
	}
	for _, c := range s.streams {
		c.lost(&ResetError{Err: err})
	}
	clear(s.streams)
	s.blocked = nil
	close(s.done)
	_ = s.low.Conn.Close() // the reason is in err
}

// closeWith lets the writer finish, say goodbye and end the session. The
// caller holds mu.
func (s *session) closeWith(err error) {
	if s.closing == nil {
		s.closing = err
		s.wakeWriter()
	}
}

// abort tells the peer what it did wrong and ends the session.
func (s *session) abort(code http2.ErrCode, err error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.appendGoAway(s.lastPeerID, code)
	s.closeWith(fmt.Errorf("%w: %s", err, code))
}

// tick pings a silent peer, gives up a dead one and closes an idle session.
func (s *session) tick() {
	s.mu.Lock()
	now := time.Now()
	next, dead := s.keepalive(now)
	s.controlFrames = 0
	if s.err == nil && !dead {
		if len(s.streams) == 0 && s.reserved == 0 && now.Sub(s.idleSince) >= s.timing.idle {
			s.appendGoAway(s.lastPeerID, http2.ErrCodeNo)
			s.closeWith(net.ErrClosed)
		}
		s.timer.Reset(next)
	}
	s.mu.Unlock()
	if dead {
		s.fail(ErrKeepalive)
	}
}

// keepalive returns when to look again, and whether the peer is dead: it has
// not answered a ping, or its socket has not taken a write.
func (s *session) keepalive(now time.Time) (next time.Duration, dead bool) {
	if !s.writing.IsZero() && now.Sub(s.writing) >= s.timing.pingTimeout {
		return 0, true
	}
	if s.active.Swap(false) {
		s.pingSent = time.Time{}
		return s.timing.pingEvery, false
	}
	if s.pingSent.IsZero() {
		s.pingSent = now
		s.appendPing(false, [8]byte{})
		return min(s.timing.pingEvery, s.timing.pingTimeout), false
	}
	left := s.timing.pingTimeout - now.Sub(s.pingSent)
	return min(s.timing.pingEvery, left), left <= 0
}

// goAway starts a graceful end: streams under way go on, the session closes
// after the last of them.
func (s *session) goAway() {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.drain != drainNone || s.err != nil {
		return
	}
	if s.accept == nil {
		s.drain = drainFinal
		s.appendGoAway(0, http2.ErrCodeNo)
		s.closeIfDrained()
		return
	}
	// A stream may be on its way. Only when the peer has answered a ping is it
	// certain that it knows (RFC 9113 section 6.8).
	s.drain = drainAnnounce
	s.appendGoAway(1<<31-1, http2.ErrCodeNo)
	s.appendPing(false, drainPing)
}

func (s *session) goAwayFinal() {
	s.drain = drainFinal
	close(s.parted)
	s.appendGoAway(s.lastPeerID, http2.ErrCodeNo)
	s.closeIfDrained()
}

// closeIfDrained closes a session that takes no new streams and has none left.
func (s *session) closeIfDrained() {
	if (s.gone || s.drain == drainFinal) && len(s.streams) == 0 && s.reserved == 0 {
		s.closeWith(ErrClosed)
	}
}

// forget removes a stream that both sides have ended.
func (s *session) forget(c *Conn) {
	if s.streams[c.id] != c {
		return
	}
	delete(s.streams, c.id)
	if len(s.streams) == 0 {
		s.idleSince = time.Now()
	}
	s.closeIfDrained()
}

// unblock wakes the writers that wait for the connection.
func (s *session) unblock() {
	for _, c := range s.blocked {
		c.isBlocked = false
		c.writable.Signal()
	}
	s.blocked = s.blocked[:0]
}
