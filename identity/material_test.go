package identity_test

import (
	"bytes"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"

	"github.com/towpath-mesh/towpath/identity"
)

// TestKeysDoNotPrint looks for the secret scalar in everything that fmt, slog
// and encoding/json make of values that hold a key.
func TestKeysDoNotPrint(t *testing.T) {
	raw, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	key := identity.Hide(raw)
	m, err := identity.NewFakeCA(td).Source(account("web")).Current()
	if err != nil {
		t.Fatal(err)
	}
	secret, err := raw.Bytes()
	if err != nil {
		t.Fatal(err)
	}
	held := struct {
		K *identity.Key
		M *identity.Material
		k *identity.Key
	}{key, m, key}
	for _, verb := range []string{"%v", "%+v", "%#v", "%s", "%q", "%x", "%d"} {
		for _, v := range []any{key, m, held, &held, []any{key}} {
			out := fmt.Sprintf(verb, v)
			if leaks(out, secret) {
				t.Errorf("%s of %T prints the key", verb, v)
			}
		}
		if out := fmt.Sprintf(verb, key); out != "[redacted]" {
			t.Errorf("%s of a key prints %q", verb, out)
		}
	}
	var log bytes.Buffer
	slog.New(slog.NewJSONHandler(&log, nil)).Info("x", "key", key, "material", m, "struct", held)
	if leaks(log.String(), secret) || !strings.Contains(log.String(), "[redacted]") {
		t.Errorf("log: %s", &log)
	}
	text, err := json.Marshal(held)
	if err != nil || leaks(string(text), secret) || !strings.Contains(string(text), "[redacted]") {
		t.Errorf("JSON %s, error %v", text, err)
	}
}

func leaks(out string, secret []byte) bool {
	decimal := strings.Trim(strings.Join(strings.Fields(fmt.Sprint(secret[:8])), " "), "[]")
	return strings.Contains(strings.ToLower(out), hex.EncodeToString(secret[:8])) || strings.Contains(out, decimal)
}

func TestStore(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var s identity.Store
		if _, err := s.Current(); !errors.Is(err, identity.ErrNoCertificate) {
			t.Errorf("empty: %v", err)
		}
		m, err := identity.NewFakeCA(td).Source(account("web")).Current()
		if err != nil {
			t.Fatal(err)
		}
		s.Set(m)
		if got, err := s.Current(); got != m || err != nil {
			t.Errorf("filled: %s, %v", got, err)
		}
		<-time.After(time.Until(m.NotAfter()) + time.Second)
		if _, err := s.Current(); !errors.Is(err, identity.ErrExpired) {
			t.Errorf("expired: %v", err)
		}
		if s.Peek() != m {
			t.Error("Peek does not show what has expired")
		}
		s.Set(nil)
		if _, err := s.Current(); !errors.Is(err, identity.ErrNoCertificate) {
			t.Errorf("withdrawn: %v", err)
		}
	})
}
