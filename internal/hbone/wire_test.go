package hbone

import (
	"bufio"
	"bytes"
	"context"
	"crypto/tls"
	"io"
	"net"
	"testing"
	"time"

	"golang.org/x/net/http2"
	"golang.org/x/net/http2/hpack"

	"github.com/towpath-mesh/towpath/identity"
)

// rawClient is a peer that says what the test wants it to say.
type rawClient struct {
	*http2.Framer
	t    testing.TB
	conn net.Conn
	enc  *hpack.Encoder
	buf  bytes.Buffer
}

func newRawClient(r *rig) *rawClient {
	r.t.Helper()
	conn, err := tls.Dial("tcp", r.addr.String(), identity.ClientTLS(r.ca.Source(clientID), identity.OneOf(serverID)))
	if err != nil {
		r.t.Fatal(err)
	}
	r.t.Cleanup(func() { conn.Close() })
	conn.SetDeadline(time.Now().Add(10 * time.Second))
	c := &rawClient{Framer: http2.NewFramer(conn, conn), t: r.t, conn: conn}
	c.Framer.ReadMetaHeaders = hpack.NewDecoder(4096, nil)
	c.Framer.SetMaxReadFrameSize(1 << 20)
	c.enc = hpack.NewEncoder(&c.buf)
	io.WriteString(conn, http2.ClientPreface)
	c.WriteSettings()
	return c
}

func (c *rawClient) headers(id uint32, end bool, fields ...string) {
	c.buf.Reset()
	for i := 0; i < len(fields); i += 2 {
		c.enc.WriteField(hpack.HeaderField{Name: fields[i], Value: fields[i+1]})
	}
	if err := c.WriteHeaders(http2.HeadersFrameParam{StreamID: id, BlockFragment: c.buf.Bytes(), EndStream: end, EndHeaders: true}); err != nil {
		c.t.Fatal(err)
	}
}

func (c *rawClient) connect(id uint32) {
	c.headers(id, false, ":method", "CONNECT", ":authority", "10.0.0.1:80")
}

// next returns the next frame of one of the types.
func next[F http2.Frame](c *rawClient) F {
	c.t.Helper()
	for {
		f, err := c.ReadFrame()
		if err != nil {
			c.t.Fatalf("waiting for %T: %v", *new(F), err)
		}
		if f, ok := f.(F); ok {
			return f
		}
	}
}

func TestOnlyConnect(t *testing.T) {
	r := newRig(t, rigOptions{}, echo)
	c := newRawClient(r)
	for i, fields := range [][]string{
		{":method", "GET", ":scheme", "https", ":authority", "10.0.0.1:80", ":path", "/"},
		{":method", "CONNECT", ":authority", "10.0.0.1:80", ":scheme", "https", ":path", "/"},
		{":method", "CONNECT", ":protocol", "websocket", ":authority", "10.0.0.1:80"},
		{":method", "CONNECT"},
		{":method", "CONNECT", ":authority", "10.0.0.1"},
	} {
		c.headers(uint32(2*i+1), false, fields...)
		if got := next[*http2.MetaHeadersFrame](c).PseudoValue("status"); got != "400" {
			t.Errorf("%v: %s", fields, got)
		}
	}
	c.connect(99)
	if got := next[*http2.MetaHeadersFrame](c).PseudoValue("status"); got != "200" {
		t.Errorf("CONNECT after them: %s", got)
	}
}

func TestSettingsOffered(t *testing.T) {
	c := newRawClient(newRig(t, rigOptions{}, echo))
	s := next[*http2.SettingsFrame](c)
	for id, want := range map[http2.SettingID]uint32{
		http2.SettingInitialWindowSize: 4 << 20, http2.SettingMaxConcurrentStreams: 200, http2.SettingMaxHeaderListSize: 64 << 10} {
		if got, _ := s.Value(id); got != want {
			t.Errorf("%v = %d, want %d", id, got, want)
		}
	}
	if w := next[*http2.WindowUpdateFrame](c); w.StreamID != 0 || w.Increment != 16<<20-65535 {
		t.Errorf("connection window: %v", w)
	}
}

// TestStreamLimit counts what the peer makes this side work on, not only what
// it leaves open.
func TestStreamLimit(t *testing.T) {
	release := make(chan struct{})
	r := newRig(t, rigOptions{}, func(ctx context.Context, tu *Tunnel) { <-release }) // does not notice the reset
	defer close(release)
	c := newRawClient(r)
	for i := range uint32(maxServerStreams) {
		c.connect(2*i + 1)
		c.WriteRSTStream(2*i+1, http2.ErrCodeCancel)
	}
	c.connect(2*maxServerStreams + 1)
	if f := next[*http2.RSTStreamFrame](c); f.StreamID != 2*maxServerStreams+1 || f.ErrCode != http2.ErrCodeRefusedStream {
		t.Errorf("got %v", f)
	}
}

// TestBrokenPeers: what each breach costs.
func TestBrokenPeers(t *testing.T) {
	for name, tc := range map[string]struct {
		do   func(c *rawClient)
		code http2.ErrCode
	}{
		"DATA on an idle stream":    {func(c *rawClient) { c.WriteData(7, false, []byte("x")) }, http2.ErrCodeProtocol},
		"even stream":               {func(c *rawClient) { c.connect(2) }, http2.ErrCodeProtocol},
		"RST_STREAM of an idle one": {func(c *rawClient) { c.WriteRSTStream(7, http2.ErrCodeCancel) }, http2.ErrCodeProtocol},
		"window of an idle one":     {func(c *rawClient) { c.WriteWindowUpdate(7, 1) }, http2.ErrCodeProtocol},
		"PUSH_PROMISE": {func(c *rawClient) {
			c.connect(1)
			c.WritePushPromise(http2.PushPromiseParam{StreamID: 1, PromiseID: 2, EndHeaders: true})
		}, http2.ErrCodeProtocol},
		"window overflow":           {func(c *rawClient) { c.WriteWindowUpdate(0, 1<<31-1) }, http2.ErrCodeFlowControl},
		"frame larger than offered": {func(c *rawClient) { c.WriteRawFrame(http2.FrameData, 0, 1, make([]byte, maxReadFrame+1)) }, http2.ErrCodeFrameSize},
		"header block of no meaning": {func(c *rawClient) {
			c.WriteRawFrame(http2.FrameHeaders, http2.FlagHeadersEndHeaders, 1, []byte{0xff, 0xff, 0xff})
		}, http2.ErrCodeCompression},
		"pings without end": {func(c *rawClient) {
			for range controlBudget + 10 {
				c.WritePing(false, [8]byte{})
			}
		}, http2.ErrCodeEnhanceYourCalm},
		"empty DATA without end": {func(c *rawClient) {
			c.connect(1)
			for range controlBudget + 10 {
				c.WriteData(1, false, nil)
			}
		}, http2.ErrCodeEnhanceYourCalm},
	} {
		t.Run(name, func(t *testing.T) {
			r := newRig(t, rigOptions{}, func(ctx context.Context, tu *Tunnel) { <-ctx.Done() })
			c := newRawClient(r)
			tc.do(c)
			if f := next[*http2.GoAwayFrame](c); f.ErrCode != tc.code {
				t.Errorf("got %v, want %v", f.ErrCode, tc.code)
			}
			eventually(t, "the connection is closed", func() bool {
				r.mu.Lock()
				defer r.mu.Unlock()
				return len(r.errs) == 1 && r.errs[0] != nil
			})
		})
	}
}

func TestStreamErrorsSpareTheConnection(t *testing.T) {
	r := newRig(t, rigOptions{}, func(ctx context.Context, tu *Tunnel) {
		if tu.Authority.Port == 7 {
			echo(ctx, tu)
		}
		<-ctx.Done()
	})
	c := newRawClient(r)
	c.connect(1)
	c.WriteWindowUpdate(1, 1<<31-1)
	if f := next[*http2.RSTStreamFrame](c); f.StreamID != 1 || f.ErrCode != http2.ErrCodeFlowControl {
		t.Errorf("window overflow: %v", f)
	}
	c.headers(3, false, ":method", "CONNECT", ":authority", "10.0.0.1:80", "Upper", "x")
	if f := next[*http2.RSTStreamFrame](c); f.StreamID != 3 || f.ErrCode != http2.ErrCodeProtocol {
		t.Errorf("bad field name: %v", f)
	}
	c.connect(5)
	c.WriteData(5, true, []byte("echo"))
	c.WriteData(5, false, []byte("more"))
	if f := next[*http2.RSTStreamFrame](c); f.StreamID != 5 || f.ErrCode != http2.ErrCodeStreamClosed {
		t.Errorf("DATA after END_STREAM: %v", f)
	}
	c.headers(7, false, ":method", "CONNECT", ":authority", "10.0.0.1:7")
	c.WriteDataPadded(7, true, []byte("echo"), make([]byte, 100))
	if f := next[*http2.DataFrame](c); string(f.Data()) != "echo" || f.StreamID != 7 {
		t.Errorf("got %q on %d", f.Data(), f.StreamID)
	}
}

// FuzzServerFrames feeds a server's session the frames of an arbitrary peer:
// it must not panic, and its windows must add up.
func FuzzServerFrames(f *testing.F) {
	var seed bytes.Buffer
	fr := http2.NewFramer(&seed, nil)
	fr.WriteSettings(http2.Setting{ID: http2.SettingInitialWindowSize, Val: 10})
	var block bytes.Buffer
	enc := hpack.NewEncoder(&block)
	enc.WriteField(hpack.HeaderField{Name: ":method", Value: "CONNECT"})
	enc.WriteField(hpack.HeaderField{Name: ":authority", Value: "10.0.0.1:80"})
	fr.WriteHeaders(http2.HeadersFrameParam{StreamID: 1, BlockFragment: block.Bytes(), EndHeaders: true})
	fr.WriteDataPadded(1, false, []byte("hello"), make([]byte, 5))
	fr.WriteWindowUpdate(1, 100)
	fr.WritePing(true, drainPing)
	fr.WriteRSTStream(1, http2.ErrCodeCancel)
	fr.WriteGoAway(1, http2.ErrCodeNo, nil)
	f.Add(seed.Bytes())
	f.Fuzz(func(t *testing.T, data []byte) {
		a, b := net.Pipe()
		defer a.Close()
		defer b.Close()
		low := newBatchConn(a)
		s := newSession(tls.Server(low, &tls.Config{}), low, clientID, timing{pingEvery: time.Hour, pingTimeout: time.Hour, idle: time.Hour})
		s.openReader(bufio.NewReader(bytes.NewReader(data)), serverHeaderLimit)
		s.accept = func(c *Conn, f *http2.MetaHeadersFrame) {
			_, c.cancel = context.WithCancel(context.Background())
			newTunnel(c, f)
		}
		s.readLoop()
		s.mu.Lock()
		defer s.mu.Unlock()
		held := int64(0)
		for _, c := range s.streams {
			held += int64(c.queue.size)
		}
		if s.err == nil && s.closing == nil {
			t.Fatal("the end of the input did not end the session")
		}
		if s.recvWindow > connWindow || held > connWindow {
			t.Fatalf("window %d, %d bytes held", s.recvWindow, held)
		}
	})
}
