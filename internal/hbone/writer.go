package hbone

import (
	"encoding/binary"
	"runtime"
	"sync"
	"time"

	"golang.org/x/net/http2"
	"golang.org/x/net/http2/hpack"
)

// batchPool holds the buffers of sessions that are at work; an idle one has
// none.
var batchPool = sync.Pool{New: func() any { b := make([]byte, 0, 16<<10); return &b }}

func getBuffer() []byte { return (*batchPool.Get().(*[]byte))[:0] }

func putBuffer(b []byte) {
	if cap(b) > 0 {
		batchPool.Put(&b)
	}
}

// writeLoop writes what streams have appended, everything that is there in one
// go, until the session ends.
func (s *session) writeLoop() {
	for {
		select {
		case <-s.wake:
		case <-s.done:
			return
		}
		// Others that are ready to run have something to say, too. Letting
		// them go first gathers their frames into one write.
		runtime.Gosched()
		for s.writeSome() {
		}
	}
}

// writeSome writes what is pending and reports whether to go on.
func (s *session) writeSome() bool {
	s.mu.Lock()
	if s.err != nil {
		s.mu.Unlock()
		return false
	}
	if len(s.pending) == 0 {
		closing := s.closing
		putBuffer(s.pending)
		putBuffer(s.spare)
		s.pending, s.spare = nil, nil
		s.mu.Unlock()
		if closing != nil {
			_ = s.conn.Close() // says close_notify; the session ends anyway
			s.fail(closing)
		}
		return false
	}
	out := s.pending
	s.pending, s.spare = s.spare, nil
	s.writing = time.Now()
	s.unblock()
	s.mu.Unlock()

	err := s.writeBatch(out)

	s.mu.Lock()
	s.writing = time.Time{}
	s.spare = out[:0]
	s.mu.Unlock()
	if err != nil {
		s.fail(err)
	}
	return err == nil
}

func (s *session) writeBatch(out []byte) error {
	s.low.begin(getBuffer())
	_, err := s.conn.Write(out)
	buf, flushErr := s.low.flush()
	putBuffer(buf)
	if err != nil {
		return err
	}
	return flushErr
}

func (s *session) wakeWriter() {
	select {
	case s.wake <- struct{}{}:
	default:
	}
}

// The append functions add one frame to what is pending. Their callers hold mu.

func (s *session) appendFrame(t http2.FrameType, flags http2.Flags, id uint32, payload []byte) {
	if s.pending == nil {
		s.pending = getBuffer()
	}
	n := len(payload)
	s.pending = append(s.pending, byte(n>>16), byte(n>>8), byte(n), byte(t), byte(flags))
	s.pending = binary.BigEndian.AppendUint32(s.pending, id)
	s.pending = append(s.pending, payload...)
	s.wakeWriter()
}

func (s *session) appendData(id uint32, p []byte, end bool) {
	var flags http2.Flags
	if end {
		flags = http2.FlagDataEndStream
	}
	s.appendFrame(http2.FrameData, flags, id, p)
}

func (s *session) appendReset(id uint32, code http2.ErrCode) {
	s.appendFrame(http2.FrameRSTStream, 0, id, binary.BigEndian.AppendUint32(nil, uint32(code)))
}

func (s *session) appendWindow(id uint32, n int64) {
	s.appendFrame(http2.FrameWindowUpdate, 0, id, binary.BigEndian.AppendUint32(nil, uint32(n)))
}

func (s *session) appendPing(ack bool, data [8]byte) {
	var flags http2.Flags
	if ack {
		flags = http2.FlagPingAck
	}
	s.appendFrame(http2.FramePing, flags, 0, data[:])
}

func (s *session) appendGoAway(last uint32, code http2.ErrCode) {
	b := binary.BigEndian.AppendUint32(nil, last)
	s.appendFrame(http2.FrameGoAway, 0, 0, binary.BigEndian.AppendUint32(b, uint32(code)))
}

// appendSettings opens this side of the connection: what it offers, and the
// window of the whole connection.
func (s *session) appendSettings(settings ...http2.Setting) {
	settings = append(settings,
		http2.Setting{ID: http2.SettingInitialWindowSize, Val: streamWindow},
		http2.Setting{ID: http2.SettingMaxFrameSize, Val: maxReadFrame})
	var b []byte
	for _, st := range settings {
		b = binary.BigEndian.AppendUint16(b, uint16(st.ID))
		b = binary.BigEndian.AppendUint32(b, st.Val)
	}
	s.appendFrame(http2.FrameSettings, 0, 0, b)
	s.appendWindow(0, connWindow-initialPeerWindow)
}

// appendHeaders encodes a header block, which has to fit one frame of the
// smallest size that a peer may ask for.
func (s *session) appendHeaders(id uint32, end bool, fields ...hpack.HeaderField) error {
	s.headerBlock.Reset()
	for _, f := range fields {
		if err := s.headerCoder.WriteField(f); err != nil {
			return err
		}
	}
	if s.headerBlock.Len() > initialPeerFrame {
		// The coder's table has moved on without the peer: no later block
		// could be read.
		s.closeWith(errHeaderTooLarge)
		return errHeaderTooLarge
	}
	flags := http2.FlagHeadersEndHeaders
	if end {
		flags |= http2.FlagHeadersEndStream
	}
	s.appendFrame(http2.FrameHeaders, flags, id, s.headerBlock.Bytes())
	return nil
}
