package upstream

import (
	"bytes"
	"errors"
	"io"
	"math"
	"net/netip"
	"strings"
	"testing"

	"github.com/spiffe/go-spiffe/v2/spiffeid"

	"github.com/towpath-mesh/towpath/internal/mesh"
)

// TestWeights: after any number of choices each share is right within a few.
func TestWeights(t *testing.T) {
	for _, weights := range [][]uint32{{1}, {70, 30}, {1, 1, 1}, {0, 5, 0, 1}, {99, 1}, {1000000, 1}, {3, 0}} {
		var sum float64
		for _, w := range weights {
			sum += float64(w)
		}
		w := NewWeights(weights)
		counts := make([]int, len(weights))
		for n := 1; n <= 2000; n++ {
			counts[w.Next()]++
			for i, c := range counts {
				if off := math.Abs(float64(c) - float64(n)*float64(weights[i])/sum); off > 4 {
					t.Fatalf("%v: %v after %d choices", weights, counts, n)
				}
				if weights[i] == 0 && c > 0 {
					t.Fatalf("%v: weight 0 was chosen", weights)
				}
			}
		}
	}
	for _, none := range [][]uint32{nil, {0}, {0, 0}} {
		if got := NewWeights(none).Next(); got != -1 {
			t.Errorf("%v: %d, want none", none, got)
		}
	}
}

// source is a body that can be told to stall.
type source struct {
	io.Reader
	stalled chan struct{}
	closed  chan struct{}
}

func (s *source) Read(p []byte) (int, error) {
	if s.stalled != nil {
		close(s.stalled)
		<-s.closed
		return 0, io.ErrClosedPipe
	}
	return s.Reader.Read(p)
}

func (s *source) Close() error {
	close(s.closed)
	return nil
}

func newSource(r io.Reader) *source { return &source{Reader: r, closed: make(chan struct{})} }

func TestReplay(t *testing.T) {
	r := newReplay(newSource(strings.NewReader("hello")))
	first := r.attempt()
	io.ReadFull(first, make([]byte, 3))
	first.Close()
	if _, err := first.Read(make([]byte, 1)); !errors.Is(err, errAttemptOver) {
		t.Errorf("reading on: %v", err)
	}
	for range 2 {
		a := r.attempt()
		if got, err := io.ReadAll(a); string(got) != "hello" || err != nil || !r.possible() {
			t.Fatalf("%q, %v", got, err)
		}
		a.Close()
	}
}

func TestReplayTooLong(t *testing.T) {
	body := bytes.Repeat([]byte("x"), maxReplay+1)
	r := newReplay(newSource(bytes.NewReader(body)))
	first := r.attempt()
	if got, err := io.ReadAll(first); !bytes.Equal(got, body) || err != nil {
		t.Fatalf("%d bytes, %v", len(got), err)
	}
	if r.possible() {
		t.Error("another attempt is thought possible")
	}
	if _, err := r.attempt().Read(make([]byte, 1)); !errors.Is(err, errNoReplay) {
		t.Errorf("another attempt reads: %v", err)
	}
}

// TestReplayStalled: closing an attempt ends its Read, and the body.
func TestReplayStalled(t *testing.T) {
	src := newSource(nil)
	src.stalled = make(chan struct{})
	r := newReplay(src)
	a := r.attempt()
	done := make(chan error, 1)
	go func() {
		_, err := a.Read(make([]byte, 1))
		done <- err
	}()
	<-src.stalled
	a.Close()
	if err := <-done; err == nil || r.possible() {
		t.Errorf("%v, possible %t", err, r.possible())
	}
}

func TestReplayFill(t *testing.T) {
	r := newReplay(newSource(strings.NewReader("hello")))
	r.fill(5)
	if got, err := io.ReadAll(r.attempt()); string(got) != "hello" || err != nil {
		t.Errorf("%q, %v", got, err)
	}
}

var key = mesh.ServiceKey{Namespace: "shop", Name: "echo"}

func storeOf(addrs ...string) *mesh.Store {
	s := &mesh.Store{}
	slice := &mesh.EndpointSlice{Key: mesh.SliceKey{Namespace: "shop", Name: "echo-1"}, Service: key, Ports: []mesh.EndpointPort{{Name: "http", Port: 8080}}}
	for _, a := range addrs {
		slice.Endpoints = append(slice.Endpoints, mesh.Endpoint{Address: netip.MustParseAddr(a), Ready: true, Serving: true})
	}
	s.Apply(mesh.Update{
		Services: []*mesh.Service{{Key: key, Ports: []mesh.ServicePort{{Name: "http", Port: 80}}}},
		Slices:   []*mesh.EndpointSlice{slice},
	})
	return s
}

func TestPick(t *testing.T) {
	store := storeOf("10.0.0.1", "10.0.0.2", "10.0.0.3")
	b := NewBalancer(store)
	if _, _, ok := b.Pick(key, 81, nil); ok || b.Known(key, 81) || !b.Known(key, 80) {
		t.Error("a port that does not exist")
	}
	tried := []netip.AddrPort{netip.MustParseAddrPort("10.0.0.1:8080"), netip.MustParseAddrPort("10.0.0.3:8080")}
	for range 20 {
		got, release, ok := b.Pick(key, 80, tried)
		if !ok || got.Address.String() != "10.0.0.2:8080" {
			t.Fatalf("%v, want the one not tried", got.Address)
		}
		release()
		release() // once is enough
	}
	if n := b.load(netip.MustParseAddrPort("10.0.0.2:8080")).Load(); n != 0 {
		t.Errorf("load %d after all releases", n)
	}
	store.Apply(mesh.Update{Slices: []*mesh.EndpointSlice{{Key: mesh.SliceKey{Namespace: "shop", Name: "echo-1"}, Service: key}}})
	if _, _, ok := b.Pick(key, 80, nil); ok {
		t.Error("an endpoint that is gone")
	}
}

// TestPickLighter: held requests spread evenly, which random choice would not.
func TestPickLighter(t *testing.T) {
	b := NewBalancer(storeOf("10.0.0.1", "10.0.0.2"))
	counts := map[netip.AddrPort]int{}
	for range 100 {
		got, _, _ := b.Pick(key, 80, nil)
		counts[got.Address]++
	}
	for a, n := range counts {
		if n < 49 || n > 51 {
			t.Errorf("%s has %d of 100 requests", a, n)
		}
	}
}

// TestPool: whatever makes connections different makes pools different.
func TestPool(t *testing.T) {
	id := func(s string) spiffeid.ID {
		return spiffeid.RequireFromString("spiffe://td/ns/x/sa/" + s)
	}
	target := func(addr string, wl mesh.WorkloadID) mesh.Target {
		return mesh.Target{Address: netip.MustParseAddrPort(addr), Workload: &mesh.Workload{ID: wl}}
	}
	from := func(s, addr string) Source {
		return Source{Identity: id(s), Address: netip.MustParseAddrPort(addr)}
	}
	base := from("a", "10.0.0.1:1").pool(target("10.1.0.1:80", "w"), false)
	if other := from("a", "10.0.0.1:2").pool(target("10.1.0.1:80", "w"), false); other != base {
		t.Error("the client's port keeps connections apart")
	}
	for name, other := range map[string]string{
		"identity": from("b", "10.0.0.1:1").pool(target("10.1.0.1:80", "w"), false),
		"address":  from("a", "10.0.0.2:1").pool(target("10.1.0.1:80", "w"), false),
		"endpoint": from("a", "10.0.0.1:1").pool(target("10.1.0.2:80", "w"), false),
		"port":     from("a", "10.0.0.1:1").pool(target("10.1.0.1:81", "w"), false),
		"workload": from("a", "10.0.0.1:1").pool(target("10.1.0.1:80", "v"), false),
		"protocol": from("a", "10.0.0.1:1").pool(target("10.1.0.1:80", "w"), true),
	} {
		if other == base {
			t.Errorf("another %s, the same pool", name)
		}
	}
}
