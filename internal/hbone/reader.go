package hbone

import (
	"bufio"
	"errors"
	"fmt"
	"io"
	"net/http"
	"strconv"

	"golang.org/x/net/http2"
	"golang.org/x/net/http2/hpack"
)

var (
	errProtocol       = errors.New("peer broke the HTTP/2 protocol")
	errFlood          = errors.New("peer floods the connection")
	errHeaderTooLarge = errors.New("tunnel header does not fit a frame")
)

// openReader prepares the framer; the connection's preface was read or sent.
func (s *session) openReader(r *bufio.Reader, headerLimit uint32) {
	s.framer = http2.NewFramer(io.Discard, r)
	s.framer.SetReuseFrames()
	s.framer.SetMaxReadFrameSize(maxReadFrame)
	s.framer.MaxHeaderListSize = headerLimit
	s.framer.ReadMetaHeaders = hpack.NewDecoder(4096, nil)
}

// readLoop reads frames until the session ends or the peer breaks the rules.
func (s *session) readLoop() {
	if err := s.readGreeting(); err != nil && !s.survives(err) {
		return
	}
	for {
		f, err := s.framer.ReadFrame()
		s.active.Store(true)
		if err == nil {
			err = s.handle(f)
		}
		if err != nil && !s.survives(err) {
			return
		}
	}
}

// survives resets the stream that an error is about, or ends the session.
func (s *session) survives(err error) bool {
	var stream http2.StreamError
	var code http2.ConnectionError
	switch {
	case errors.As(err, &stream):
		s.resetStream(stream.StreamID, stream.Code)
		return true
	case errors.Is(err, errFlood):
		s.abort(http2.ErrCodeEnhanceYourCalm, err)
	case errors.As(err, &code):
		s.abort(http2.ErrCode(code), errProtocol)
	case errors.Is(err, http2.ErrFrameTooLarge):
		s.abort(http2.ErrCodeFrameSize, errProtocol)
	default:
		if errors.Is(err, io.EOF) {
			err = io.ErrUnexpectedEOF
		}
		s.fail(err)
	}
	return false
}

// resetStream answers an error of the peer's in one stream. One that never
// became a stream counts as opened nevertheless.
func (s *session) resetStream(id uint32, code http2.ErrCode) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.accept != nil {
		s.lastPeerID = max(s.lastPeerID, id)
	}
	s.appendReset(id, code)
	if c := s.streams[id]; c != nil {
		c.lost(&ResetError{Code: code})
		s.forget(c)
	}
	s.countControl()
}

// readGreeting reads the SETTINGS that the peer has to begin with.
func (s *session) readGreeting() error {
	f, err := s.framer.ReadFrame()
	if err != nil {
		return err
	}
	if sf, ok := f.(*http2.SettingsFrame); !ok || sf.IsAck() {
		return http2.ConnectionError(http2.ErrCodeProtocol)
	}
	s.mu.Lock()
	s.greeted = true
	s.mu.Unlock()
	return s.handle(f)
}

func (s *session) handle(f http2.Frame) error {
	switch f := f.(type) {
	case *http2.MetaHeadersFrame:
		return s.handleHeaders(f)
	case *http2.DataFrame:
		return s.handleData(f)
	case *http2.WindowUpdateFrame:
		return s.handleWindow(f)
	case *http2.RSTStreamFrame:
		return s.handleReset(f)
	case *http2.SettingsFrame:
		return s.handleSettings(f)
	case *http2.PingFrame:
		return s.handlePing(f)
	case *http2.GoAwayFrame:
		s.handleGoAway(f)
	case *http2.PushPromiseFrame:
		return http2.ConnectionError(http2.ErrCodeProtocol)
	}
	return nil // PRIORITY and what is unknown: RFC 9113 section 5.5
}

func (s *session) handleHeaders(f *http2.MetaHeadersFrame) error {
	s.mu.Lock()
	c := s.streams[f.StreamID]
	if c == nil && s.accept != nil && f.StreamID > s.lastPeerID && f.StreamID%2 == 1 {
		err := s.openedByPeer(f)
		s.mu.Unlock()
		return err
	}
	defer s.mu.Unlock()
	switch {
	case c == nil && s.isIdle(f.StreamID):
		return http2.ConnectionError(http2.ErrCodeProtocol)
	case c == nil:
		return nil // of a stream that was reset here
	case f.Truncated:
		return streamError(f.StreamID, http2.ErrCodeEnhanceYourCalm)
	case c.recvErr != nil:
		return streamError(f.StreamID, http2.ErrCodeStreamClosed)
	case s.accept == nil && c.status == 0:
		return c.answeredBy(f)
	case !f.StreamEnded():
		return streamError(f.StreamID, http2.ErrCodeProtocol)
	}
	c.finish() // trailers, which carry nothing here
	return nil
}

// answeredBy takes the answer to a CONNECT.
func (c *Conn) answeredBy(f *http2.MetaHeadersFrame) error {
	status, err := strconv.Atoi(f.PseudoValue("status"))
	if err != nil || status < 100 || status > 999 {
		return streamError(f.StreamID, http2.ErrCodeProtocol)
	}
	if status < 200 {
		return nil
	}
	c.response = parseResponseHeader(f.RegularFields())
	c.answer(status)
	if f.StreamEnded() {
		c.finish()
	}
	return nil
}

// openedByPeer checks a new stream and gives it to accept.
func (s *session) openedByPeer(f *http2.MetaHeadersFrame) error {
	s.lastPeerID = f.StreamID
	switch {
	case s.drain == drainFinal:
		return nil // after the last one: the peer was told
	case f.Truncated:
		return streamError(f.StreamID, http2.ErrCodeEnhanceYourCalm)
	case s.running >= maxServerStreams:
		// Counted by handlers, not by streams: a peer that resets its streams
		// at once gets no more work out of this side.
		return streamError(f.StreamID, http2.ErrCodeRefusedStream)
	}
	s.running++
	c := newConn(s, f.StreamID)
	if f.StreamEnded() {
		c.finish()
	}
	s.accept(c, f)
	return nil
}

func (s *session) handleData(f *http2.DataFrame) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	size := int64(f.Length) // with padding, as the windows count it
	if s.recvWindow -= size; s.recvWindow < 0 {
		return http2.ConnectionError(http2.ErrCodeFlowControl)
	}
	c := s.streams[f.StreamID]
	if c == nil || c.recvErr != nil {
		if s.isIdle(f.StreamID) {
			return http2.ConnectionError(http2.ErrCodeProtocol)
		}
		s.creditConn(int(size))
		if c != nil {
			return streamError(f.StreamID, http2.ErrCodeStreamClosed)
		}
		return nil
	}
	if c.recvWindow -= size; c.recvWindow < 0 {
		s.creditConn(int(size))
		return streamError(f.StreamID, http2.ErrCodeFlowControl)
	}
	data := f.Data()
	c.queue.push(data)
	if padding := int(size) - len(data); padding > 0 {
		c.credit(padding)
	}
	if f.StreamEnded() {
		c.finish()
		return nil
	}
	if len(data) == 0 {
		return s.countControl()
	}
	c.readable.Signal()
	return nil
}

func (s *session) handleWindow(f *http2.WindowUpdateFrame) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	if f.StreamID == 0 {
		if s.sendWindow += int64(f.Increment); s.sendWindow > 1<<31-1 {
			return http2.ConnectionError(http2.ErrCodeFlowControl)
		}
		s.unblock()
		return nil
	}
	c := s.streams[f.StreamID]
	if c == nil {
		if s.isIdle(f.StreamID) {
			return http2.ConnectionError(http2.ErrCodeProtocol)
		}
		return nil
	}
	if c.sendWindow += int64(f.Increment); c.sendWindow > 1<<31-1 {
		return streamError(f.StreamID, http2.ErrCodeFlowControl)
	}
	c.writable.Signal()
	return nil
}

func (s *session) handleReset(f *http2.RSTStreamFrame) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	c := s.streams[f.StreamID]
	if c == nil {
		if s.isIdle(f.StreamID) {
			return http2.ConnectionError(http2.ErrCodeProtocol)
		}
		return s.countControl()
	}
	var err error = &ResetError{Code: f.ErrCode}
	if f.ErrCode == http2.ErrCodeRefusedStream || c.status == 0 {
		err = &unanswered{err}
	}
	c.lost(err)
	s.forget(c)
	return nil
}

func (s *session) handleSettings(f *http2.SettingsFrame) error {
	if f.IsAck() {
		return nil
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if err := f.ForeachSetting(s.applySetting); err != nil {
		return err
	}
	s.appendFrame(http2.FrameSettings, http2.FlagSettingsAck, 0, nil)
	return s.countControl()
}

func (s *session) applySetting(st http2.Setting) error {
	if err := st.Valid(); err != nil {
		return err
	}
	switch st.ID {
	case http2.SettingInitialWindowSize:
		grown := int64(st.Val) - s.peerWindow
		s.peerWindow = int64(st.Val)
		for _, c := range s.streams {
			if c.sendWindow += grown; c.sendWindow > 1<<31-1 {
				return http2.ConnectionError(http2.ErrCodeFlowControl)
			}
			c.writable.Signal()
		}
	case http2.SettingMaxFrameSize:
		s.peerFrame = int(st.Val)
	case http2.SettingMaxConcurrentStreams:
		s.peerStreams = int(min(st.Val, maxStreams))
	case http2.SettingHeaderTableSize:
		s.headerCoder.SetMaxDynamicTableSizeLimit(st.Val)
	}
	return nil
}

func (s *session) handlePing(f *http2.PingFrame) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	if !f.IsAck() {
		s.appendPing(true, f.Data)
		return s.countControl()
	}
	if f.Data == drainPing && s.drain == drainAnnounce {
		s.goAwayFinal()
	}
	return nil
}

// handleGoAway keeps the streams that the peer still serves. The others it has
// not looked at: they may be tried elsewhere.
func (s *session) handleGoAway(f *http2.GoAwayFrame) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.gone = true
	for id, c := range s.streams {
		if s.accept == nil && id > f.LastStreamID {
			c.lost(&unanswered{&ResetError{Code: http2.ErrCodeRefusedStream}})
			s.forget(c)
		}
	}
	s.closeIfDrained()
}

// countControl bounds what a peer can make this side do without getting
// anything through. The caller holds mu.
func (s *session) countControl() error {
	s.controlFrames++
	if s.controlFrames > controlBudget || len(s.pending) > maxPending+maxControl {
		return errFlood
	}
	return nil
}

// isIdle reports whether the stream was never opened.
func (s *session) isIdle(id uint32) bool {
	if s.accept != nil {
		return id > s.lastPeerID || id%2 == 0
	}
	return id >= s.nextID || id%2 == 0
}

func streamError(id uint32, code http2.ErrCode) error {
	return http2.StreamError{StreamID: id, Code: code}
}

// isConnect reports whether a request is a plain CONNECT (RFC 9113 section
// 8.5): an authority, and neither scheme nor path nor protocol.
func isConnect(f *http2.MetaHeadersFrame) error {
	if m := f.PseudoValue("method"); m != http.MethodConnect {
		return fmt.Errorf("method %.20q is not CONNECT", m)
	}
	for _, p := range f.PseudoFields() {
		if p.Name != ":method" && p.Name != ":authority" {
			return fmt.Errorf("CONNECT with %.20s", p.Name)
		}
	}
	return nil
}
