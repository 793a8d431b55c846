package netns_test

import (
	"errors"
	"os"
	"sync"
	"testing"

	"github.com/towpath-mesh/towpath/ztunnel/netns"
	"github.com/towpath-mesh/towpath/ztunnel/netns/netnstest"
)

func TestDoIsInsideAndComesBack(t *testing.T) {
	home, err := netns.Self()
	if err != nil {
		t.Fatal(err)
	}
	defer home.Close()
	a, b := netnstest.New(t), netnstest.New(t)
	if a.Inode() == b.Inode() || a.Inode() == home.Inode() {
		t.Fatal("namespaces are not distinct")
	}
	var wg sync.WaitGroup
	for range 20 {
		for _, ns := range []*netns.NS{a, b} {
			wg.Go(func() {
				if got, err := inside(ns); err != nil || got != ns.Inode() {
					t.Errorf("inside %d, want %d (%v)", got, ns.Inode(), err)
				}
				if self, err := netns.Self(); err != nil || self.Inode() != home.Inode() {
					t.Errorf("did not come home: %v", err)
				} else {
					_ = self.Close()
				}
			})
		}
	}
	wg.Wait()
	want := errors.New("from within")
	if err := a.Do(func() error { return want }); !errors.Is(err, want) {
		t.Errorf("got %v", err)
	}
}

func inside(ns *netns.NS) (inode uint64, err error) {
	err = ns.Do(func() error {
		self, err := netns.Self()
		if err != nil {
			return err
		}
		inode = self.Inode()
		return self.Close()
	})
	return inode, err
}

func TestOnlyNetworkNamespaces(t *testing.T) {
	for _, path := range []string{"/proc/self/ns/mnt", os.DevNull, "/nonexistent"} {
		if ns, err := netns.Open(path); err == nil {
			_ = ns.Close()
			t.Errorf("%s was taken for a network namespace", path)
		}
	}
	closed := netnstest.New(t)
	_ = closed.Close()
	if err := closed.Do(func() error { return nil }); err == nil {
		t.Error("a closed namespace was entered")
	}
}
