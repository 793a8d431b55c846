package identity_test

import (
	"crypto/tls"
	"errors"
	"io"
	"net"
	"sync/atomic"
	"testing"

	"github.com/spiffe/go-spiffe/v2/spiffeid"

	"github.com/towpath-mesh/towpath/identity"
)

// result is how a connection went at both ends.
type result struct {
	client, server       tls.ConnectionState
	clientErr, serverErr error
}

// connect makes one connection, over which the server then says "ok": with TLS
// 1.3 a client learns only from that whether it was accepted, and of tickets.
func connect(t *testing.T, client, server *tls.Config) (r result) {
	t.Helper()
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer ln.Close()
	done := make(chan struct{})
	go func() {
		defer close(done)
		r.server, r.serverErr = accept(ln, server)
	}()
	raw, err := net.Dial("tcp", ln.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	defer raw.Close()
	c := tls.Client(raw, client)
	_, r.clientErr = io.ReadFull(c, make([]byte, 2))
	r.client = c.ConnectionState()
	raw.Close()
	<-done
	return r
}

func accept(ln net.Listener, server *tls.Config) (tls.ConnectionState, error) {
	raw, err := ln.Accept()
	if err != nil {
		return tls.ConnectionState{}, err
	}
	defer raw.Close()
	s := tls.Server(raw, server)
	if err := s.Handshake(); err != nil {
		return tls.ConnectionState{}, err
	}
	_, err = s.Write([]byte("ok"))
	return s.ConnectionState(), err
}

func TestMutualTLS(t *testing.T) {
	ca := identity.NewFakeCA(td)
	web, db := account("web"), account("db")
	r := connect(t,
		identity.ClientTLS(ca.Source(web), identity.OneOf(db)),
		identity.ServerTLS(ca.Source(db), identity.OneOf(web)))
	if r.clientErr != nil || r.serverErr != nil {
		t.Fatalf("client: %v, server: %v", r.clientErr, r.serverErr)
	}
	if got, err := identity.PeerID(r.client); got != db || err != nil {
		t.Errorf("the client sees %s (%v)", got, err)
	}
	if got, err := identity.PeerID(r.server); got != web || err != nil {
		t.Errorf("the server sees %s (%v)", got, err)
	}
	if r.server.Version != tls.VersionTLS13 || r.server.NegotiatedProtocol != "h2" || r.server.ServerName != "" {
		t.Errorf("version %x, protocol %q, server name %q", r.server.Version, r.server.NegotiatedProtocol, r.server.ServerName)
	}
	if r.server.CurveID != tls.X25519MLKEM768 {
		t.Errorf("key exchange %s is not the hybrid post-quantum one", r.server.CurveID)
	}
}

func TestHandshakeRefusals(t *testing.T) {
	ca, stranger := identity.NewFakeCA(td), identity.NewFakeCA(td)
	foreign := identity.NewFakeCA(spiffeid.RequireTrustDomainFromString("other.example"))
	web, db := account("web"), account("db")
	foreignWeb := spiffeid.RequireFromString("spiffe://other.example/ns/shop/sa/web")
	anyone := func(spiffeid.ID) error { return nil }
	good := func() (client, server *tls.Config) {
		return identity.ClientTLS(ca.Source(web), anyone), identity.ServerTLS(ca.Source(db), anyone)
	}
	for _, tc := range []struct {
		name                   string
		edit                   func(client, server *tls.Config) (c, s *tls.Config)
		wantClient, wantServer error
	}{
		{name: "client not expected", edit: func(c, _ *tls.Config) (*tls.Config, *tls.Config) {
			return c, identity.ServerTLS(ca.Source(db), identity.OneOf(db))
		}, wantServer: identity.ErrNotExpected},
		{name: "server not expected", edit: func(_, s *tls.Config) (*tls.Config, *tls.Config) {
			return identity.ClientTLS(ca.Source(web), identity.OneOf(web)), s
		}, wantClient: identity.ErrNotExpected},
		{name: "nil matcher of the server", edit: func(c, _ *tls.Config) (*tls.Config, *tls.Config) {
			return c, identity.ServerTLS(ca.Source(db), nil)
		}, wantServer: identity.ErrNotExpected},
		{name: "nil matcher of the client", edit: func(_, s *tls.Config) (*tls.Config, *tls.Config) {
			return identity.ClientTLS(ca.Source(web), nil), s
		}, wantClient: identity.ErrNotExpected},
		{name: "client of a strange authority", edit: func(_, s *tls.Config) (*tls.Config, *tls.Config) {
			src := new(identity.Store)
			m, _ := stranger.Source(web).Current()
			src.Set(m.WithBundle(ca.Bundle()))
			return identity.ClientTLS(src, anyone), s
		}, wantServer: identity.ErrUntrusted},
		{name: "client of another trust domain", edit: func(_, s *tls.Config) (*tls.Config, *tls.Config) {
			src := new(identity.Store)
			m, _ := foreign.Source(foreignWeb).Current()
			src.Set(m.WithBundle(ca.Bundle()))
			return identity.ClientTLS(src, anyone), s
		}, wantServer: identity.ErrUntrusted},
		{name: "client has no certificate yet", edit: func(_, s *tls.Config) (*tls.Config, *tls.Config) {
			return identity.ClientTLS(new(identity.Store), anyone), s
		}, wantClient: identity.ErrNoCertificate},
		{name: "server has no certificate yet", edit: func(c, _ *tls.Config) (*tls.Config, *tls.Config) {
			return c, identity.ServerTLS(new(identity.Store), anyone)
		}, wantServer: identity.ErrNoCertificate},
	} {
		t.Run(tc.name, func(t *testing.T) {
			r := connect2(t, tc.edit, good)
			if tc.wantClient != nil && !errors.Is(r.clientErr, tc.wantClient) {
				t.Errorf("client: %v, want %v", r.clientErr, tc.wantClient)
			}
			if tc.wantServer != nil && !errors.Is(r.serverErr, tc.wantServer) {
				t.Errorf("server: %v, want %v", r.serverErr, tc.wantServer)
			}
			if r.clientErr == nil {
				t.Error("the client was served")
			}
		})
	}
}

func connect2(t *testing.T, edit func(c, s *tls.Config) (*tls.Config, *tls.Config), good func() (c, s *tls.Config)) result {
	t.Helper()
	client, server := edit(good())
	return connect(t, client, server)
}

func TestServerRefusesLesserClients(t *testing.T) {
	ca := identity.NewFakeCA(td)
	server := identity.ServerTLS(ca.Source(account("db")), identity.MemberOf(td))
	if r := connect(t, &tls.Config{InsecureSkipVerify: true, NextProtos: []string{"h2"}}, server); r.serverErr == nil || r.clientErr == nil {
		t.Error("a client without a certificate was accepted")
	}
	old := identity.ClientTLS(ca.Source(account("web")), identity.MemberOf(td))
	old.MinVersion, old.MaxVersion = tls.VersionTLS12, tls.VersionTLS12
	if r := connect(t, old, server); r.serverErr == nil || r.clientErr == nil {
		t.Error("a TLS 1.2 client was accepted")
	}
}

// TestRootsRoll replaces the root under running Sources: no handshake fails
// while both roots are trusted, none succeeds across the retired one.
func TestRootsRoll(t *testing.T) {
	ca := identity.NewFakeCA(td)
	oldRoots := ca.Bundle().Roots()
	web := ca.Source(account("web"))
	ca.AddRoot()
	db := ca.Source(account("db")) // signed by the new root
	client, server := identity.ClientTLS(web, identity.MemberOf(td)), identity.ServerTLS(db, identity.MemberOf(td))
	if r := connect(t, client, server); r.clientErr != nil || r.serverErr != nil {
		t.Fatalf("both roots trusted: client %v, server %v", r.clientErr, r.serverErr)
	}
	ca.SetRoots(oldRoots...)
	if r := connect(t, client, server); !errors.Is(r.clientErr, identity.ErrUntrusted) {
		t.Errorf("the server's root is retired: client %v", r.clientErr)
	}
	ca.SetRoots()
	if r := connect(t, client, server); r.clientErr == nil {
		t.Error("served with an empty bundle")
	}
}

// TestNoResumption is about sessions made while a peer was welcome: they must
// be worth nothing once it is not. Each row gives the attacker what our end
// does not: tickets, or a session cache. In the rows "weakened" our end's
// tickets are on as well, to see that verification does not rest on them only.
func TestNoResumption(t *testing.T) {
	for _, tc := range []struct {
		name     string
		weakened bool
		revoke   func(ca *identity.FakeCA, welcome *atomic.Bool)
	}{
		{"denied", false, func(_ *identity.FakeCA, w *atomic.Bool) { w.Store(false) }},
		{"bundle emptied", false, func(ca *identity.FakeCA, _ *atomic.Bool) { ca.SetRoots() }},
		{"weakened, denied", true, func(_ *identity.FakeCA, w *atomic.Bool) { w.Store(false) }},
		{"weakened, bundle emptied", true, func(ca *identity.FakeCA, _ *atomic.Bool) { ca.SetRoots() }},
	} {
		t.Run("client attacks, "+tc.name, func(t *testing.T) { attack(t, tc.weakened, tc.revoke, true) })
		t.Run("server attacks, "+tc.name, func(t *testing.T) { attack(t, tc.weakened, tc.revoke, false) })
	}
}

func attack(t *testing.T, weakened bool, revoke func(*identity.FakeCA, *atomic.Bool), byClient bool) {
	ca := identity.NewFakeCA(td)
	var welcome atomic.Bool
	welcome.Store(true)
	judge := func(spiffeid.ID) error {
		if welcome.Load() {
			return nil
		}
		return errors.New("no longer welcome")
	}
	anyone := func(spiffeid.ID) error { return nil }

	client, server := identity.ClientTLS(ca.Source(account("web")), judge), identity.ServerTLS(ca.Source(account("db")), anyone)
	attacker, ours := server, client
	if byClient {
		client, server = identity.ClientTLS(ca.Source(account("web")), anyone), identity.ServerTLS(ca.Source(account("db")), judge)
		attacker, ours = client, server
	}
	// The attacker's end verifies nothing and wants to resume.
	attacker.VerifyConnection = nil
	for _, c := range []*tls.Config{attacker, ours} {
		if c == attacker || weakened {
			c.SessionTicketsDisabled = false
			c.ClientSessionCache = tls.NewLRUClientSessionCache(8)
			// The client's cache is indexed by the server's name.
			c.ServerName = "db"
		}
	}

	if r := connect(t, client, server); r.clientErr != nil || r.serverErr != nil {
		t.Fatalf("first connection: client %v, server %v", r.clientErr, r.serverErr)
	}
	r := connect(t, client, server)
	if r.clientErr != nil || r.serverErr != nil {
		t.Fatalf("second connection: client %v, server %v", r.clientErr, r.serverErr)
	}
	if r.server.DidResume != weakened {
		t.Fatalf("resumed: %v", r.server.DidResume)
	}
	revoke(ca, &welcome)
	if r := connect(t, client, server); byClient && r.serverErr == nil || !byClient && r.clientErr == nil {
		t.Error("still accepted")
	}
}

func TestControllerTLS(t *testing.T) {
	ca := identity.NewFakeCA(td)
	controller := account("controller")
	server := identity.ControllerServerTLS(ca.Source(controller))
	r := connect(t, identity.ControllerClientTLS(ca.Bundle, controller), server)
	if r.clientErr != nil || r.serverErr != nil {
		t.Fatalf("client: %v, server: %v", r.clientErr, r.serverErr)
	}
	if _, err := identity.PeerID(r.server); err == nil {
		t.Error("the server knows a client that has shown no certificate")
	}
	none := func() *identity.Bundle { return nil }
	for name, tc := range map[string]struct {
		client *tls.Config
		want   error
	}{
		"another identity": {identity.ControllerClientTLS(ca.Bundle, account("web")), identity.ErrNotExpected},
		"no identity":      {identity.ControllerClientTLS(ca.Bundle, spiffeid.ID{}), identity.ErrNotExpected},
		"strange root":     {identity.ControllerClientTLS(identity.NewFakeCA(td).Bundle, controller), identity.ErrUntrusted},
		"no roots yet":     {identity.ControllerClientTLS(none, controller), identity.ErrUntrusted},
	} {
		if r := connect(t, tc.client, server); !errors.Is(r.clientErr, tc.want) {
			t.Errorf("%s: %v, want %v", name, r.clientErr, tc.want)
		}
	}
}

func TestPeerIDBeforeHandshake(t *testing.T) {
	if _, err := identity.PeerID(tls.ConnectionState{}); err == nil {
		t.Error("a connection without a handshake has a peer")
	}
}

func BenchmarkHandshake(b *testing.B) {
	ca := identity.NewFakeCA(td)
	client := identity.ClientTLS(ca.Source(account("web")), identity.MemberOf(td))
	server := identity.ServerTLS(ca.Source(account("db")), identity.MemberOf(td))
	for b.Loop() {
		cc, sc := net.Pipe()
		done := make(chan error, 1)
		go func() { done <- tls.Server(sc, server).Handshake() }()
		if err := tls.Client(cc, client).Handshake(); err != nil {
			b.Fatal(err)
		}
		if err := <-done; err != nil {
			b.Fatal(err)
		}
		cc.Close()
		sc.Close()
	}
}
