package main

import (
	"bytes"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"math/big"
	"net"
	"sync"
	"testing"
)

// recorder keeps what is written through a connection.
type recorder struct {
	net.Conn
	mu    sync.Mutex
	wrote bytes.Buffer
}

func (r *recorder) Write(p []byte) (int, error) {
	r.mu.Lock()
	r.wrote.Write(p)
	r.mu.Unlock()
	return r.Conn.Write(p)
}

// TestServerHelloVersion reads the version out of real handshakes: a check that
// could not tell 1.2 from 1.3 would prove nothing.
func TestServerHelloVersion(t *testing.T) {
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	der, err := x509.CreateCertificate(rand.Reader, &x509.Certificate{SerialNumber: big.NewInt(1)}, &x509.Certificate{SerialNumber: big.NewInt(1)}, key.Public(), key)
	if err != nil {
		t.Fatal(err)
	}
	for _, version := range []uint16{tls.VersionTLS12, tls.VersionTLS13} {
		client, server := net.Pipe()
		wire := &recorder{Conn: server}
		go func() {
			defer client.Close()
			_ = tls.Client(client, &tls.Config{InsecureSkipVerify: true}).Handshake()
		}()
		cfg := &tls.Config{Certificates: []tls.Certificate{{Certificate: [][]byte{der}, PrivateKey: key}}, MinVersion: version, MaxVersion: version}
		_ = tls.Server(wire, cfg).Handshake()
		got, ok := serverHelloVersion(wire.wrote.Bytes())
		if !ok || got != version {
			t.Errorf("handshake of %#04x read as %#04x, %t", version, got, ok)
		}
	}
	if _, ok := serverHelloVersion([]byte("GET / HTTP/1.1\r\n\r\n")); ok {
		t.Error("plaintext taken for a ServerHello")
	}
}

func TestTree(t *testing.T) {
	child := func(id, parent string, start int64) *hop {
		h := &hop{jaegerSpan: jaegerSpan{TraceID: "t", SpanID: id, StartTime: start}, service: id}
		if parent != "" {
			h.References = append(h.References, struct{ RefType, TraceID, SpanID string }{"CHILD_OF", "t", parent})
		}
		return h
	}
	roots := tree([]*hop{child("c", "b", 3), child("d", "a", 4), child("b", "a", 2), child("a", "", 1)})
	if len(roots) != 1 || roots[0].SpanID != "a" {
		t.Fatalf("roots: %v", roots)
	}
	if got := roots[0].children; len(got) != 2 || got[0].SpanID != "b" || got[1].SpanID != "d" || len(got[0].children) != 1 {
		t.Errorf("children of a: %v", got)
	}
}
