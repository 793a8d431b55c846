package ztunnel

import (
	"context"
	"errors"
	"net"
	"syscall"
	"testing"
	"time"

	"github.com/towpath-mesh/towpath/internal/hbone"
)

// open makes a connection from web to an echoing cart-1 and leaves it open.
func (p *pair) open() *net.TCPConn {
	p.t.Helper()
	c := p.net.redirect("10.1.0.1:15001", "10.1.0.2:8080")
	mustWrite(p.t, c, "hello")
	mustRead(p.t, c, "hello")
	return c
}

func TestRemovePod(t *testing.T) {
	p := newPair(t)
	p.net.serve("10.1.0.2:8080", echoApp)
	c := p.open()
	p.b.RemovePod(t.Context(), p.cart1.ID)

	mustWrite(t, c, "still here")
	mustRead(t, c, "still here")
	late := p.net.redirect("10.1.0.1:15001", "10.1.0.2:8080")
	if _, err := late.Read(make([]byte, 1)); !errors.Is(err, syscall.ECONNRESET) {
		t.Errorf("a new connection: %v", err)
	}
	if pods := p.b.Pods(); len(pods) != 1 || !pods[0].Leaving {
		t.Errorf("pods: %+v", pods)
	}
	c.Close()
	eventually(t, "the pod is gone", func() bool { return len(p.b.Pods()) == 0 })
	p.b.RemovePod(t.Context(), p.cart1.ID) // an unknown one
}

func TestDrainBudget(t *testing.T) {
	p := newPair(t)
	p.net.serve("10.1.0.2:8080", echoApp)
	p.b = p.node(50 * time.Millisecond)
	p.b.add(p.cart1)
	c := p.open()
	p.b.RemovePod(t.Context(), p.cart1.ID)
	if _, err := c.Read(make([]byte, 1)); !errors.Is(err, syscall.ECONNRESET) {
		t.Errorf("after the budget: %v", err)
	}
	p.b.records(1)
	p.b.wantLabels("connections_closed_total", "mutual_tls", "inbound", "cut")
}

// TestPodAddedAgain: the agent restarted and hands over new listeners.
func TestPodAddedAgain(t *testing.T) {
	p := newPair(t)
	p.net.serve("10.1.0.2:8080", echoApp)
	c := p.open()
	old := p.net.listeners
	before := []net.Listener{old[addrPortOf("10.1.0.1:15001")], old[addrPortOf("10.1.0.2:15008")]}
	p.a.add(p.web)
	p.b.add(p.cart1)
	for _, ln := range before {
		if _, err := ln.Accept(); !errors.Is(err, net.ErrClosed) {
			t.Errorf("old listener: %v", err)
		}
	}
	mustWrite(t, c, "old")
	mustRead(t, c, "old")
	p.open()
	if len(p.a.Pods()) != 1 || len(p.b.Pods()) != 1 {
		t.Errorf("pods: %+v, %+v", p.a.Pods(), p.b.Pods())
	}
}

// TestSuccessor: another ztunnel takes the pods over.
func TestSuccessor(t *testing.T) {
	p := newPair(t)
	p.net.serve("10.1.0.2:8080", echoApp)
	c := p.open()
	oldA, oldB := p.a, p.b
	p.a, p.b = p.node(time.Minute), p.node(time.Minute)
	p.a.add(p.web)
	p.b.add(p.cart1)
	oldA.Drain()
	oldB.Drain()
	mustWrite(t, c, "through the old ones")
	mustRead(t, c, "through the old ones")
	p.open().Close()
	p.a.records(1)
	p.b.records(1)
	if !oldA.drained {
		t.Error("not told to be unready")
	}
	if err := oldA.AddPod(t.Context(), oldA.handoff(p.web)); !errors.Is(err, ErrDraining) {
		t.Errorf("AddPod: %v", err)
	}
	c.Close()
	oldA.records(1)
	oldB.records(1)
	oldA.Shutdown(time.Minute) // returns at once: nothing is left
	oldB.Shutdown(time.Minute)
}

func TestShutdownCuts(t *testing.T) {
	p := newPair(t)
	p.net.serve("10.1.0.2:8080", echoApp)
	c := p.open()
	p.a.Shutdown(10 * time.Millisecond)
	if _, err := c.Read(make([]byte, 1)); !errors.Is(err, syscall.ECONNRESET) {
		t.Errorf("client: %v", err)
	}
	if r := p.a.records(1)[0]; r.Error != errCut.Error() || r.Sent != 5 {
		t.Errorf("%+v", r)
	}
}

func TestNoPodBeforeConfig(t *testing.T) {
	r := newRig(t)
	n := r.idleNode(time.Minute)
	web, _ := testWorld().Workload("shop/web-1")
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	p := n.handoff(web)
	if err := n.AddPod(ctx, p); !errors.Is(err, context.Canceled) {
		t.Fatalf("got %v", err)
	}
	p.Close() // as the Client does
	close(n.synced)
	n.add(web)
	if pods := n.Pods(); len(pods) != 1 || pods[0].Identity != web.Identity.String() {
		t.Errorf("pods: %+v", pods)
	}
}

// TestUnknownToTheMesh: the node agent may know a pod before the config does.
func TestUnknownToTheMesh(t *testing.T) {
	r := newRig(t)
	n := r.node(time.Minute)
	web, _ := testWorld().Workload("shop/web-1")
	n.add(web)
	r.net.serve("203.0.113.1:80", echoApp)
	c := r.net.redirect("10.1.0.1:15001", "203.0.113.1:80")
	mustWrite(t, c, "x")
	mustRead(t, c, "x")
	c.Close()
	if rec := n.records(1)[0]; rec.Src.Workload != "web-1" || rec.Src.Identity != web.Identity.String() {
		t.Errorf("%+v", rec)
	}
}

// TestTunnelsAreNotShared: two pods of one service account, one destination.
func TestTunnelsAreNotShared(t *testing.T) {
	p := newPair(t)
	p.net.serve("10.1.0.2:8080", echoApp)
	web2 := *p.web
	web2.ID, web2.Name = "shop/web-2", "web-2"
	web2.Addresses = nil
	web2.Addresses = append(web2.Addresses, addrPortOf("10.1.0.20:1").Addr())
	p.a.add(&web2)
	p.open()
	p.open()
	c := p.net.redirect("10.1.0.20:15001", "10.1.0.2:8080")
	mustWrite(t, c, "x")
	mustRead(t, c, "x")
	pools := p.a.Pools()
	if len(pools) != 2 || pools[0].Tunnels != 2 || pools[1].Tunnels != 1 || pools[0].Connections != 1 {
		t.Errorf("pools: %+v", pools)
	}
}

// TestHandshakeRecords: a caller without a certificate leaves one record.
func TestHandshakeRecords(t *testing.T) {
	p := newPair(t)
	c := p.net.redirect("10.1.0.2:15008", "10.1.0.2:15008")
	mustWrite(t, c, "GET / HTTP/1.1\r\n\r\n")
	if r := p.b.records(1)[0]; r.Reason != "handshake_failure" || r.Error == "" {
		t.Errorf("%+v", r)
	}
	if _, err := p.peer(idOf("nowhere", "x")).dial("10.1.0.2:1", hbone.Header{}); !errors.Is(err, hbone.ErrUnavailable) {
		t.Errorf("a proper caller after it: %v", err)
	}
}
