package identity

import (
	"crypto"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"fmt"
	"io"
	"log/slog"
)

// redacted is what a private key prints as, whatever the verb.
const redacted = "[redacted]"

// A Key is a private key that signs and does nothing else: it does not print,
// is not encoded, and lives in this process's memory only.
type Key struct {
	signer crypto.Signer
}

// NewKey makes an ECDSA P-256 key.
func NewKey() (*Key, error) {
	k, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return nil, fmt.Errorf("making a P-256 key: %w", err)
	}
	return &Key{signer: k}, nil
}

// Hide wraps a signer so that it does not print. A *Key is returned as it is.
func Hide(s crypto.Signer) *Key {
	if k, ok := s.(*Key); ok {
		return k
	}
	return &Key{signer: s}
}

// Public implements crypto.Signer.
func (k *Key) Public() crypto.PublicKey { return k.signer.Public() }

// Sign implements crypto.Signer.
func (k *Key) Sign(random io.Reader, digest []byte, opts crypto.SignerOpts) ([]byte, error) {
	return k.signer.Sign(random, digest, opts)
}

// String implements fmt.Stringer.
func (*Key) String() string { return redacted }

// Format implements fmt.Formatter, for all verbs.
func (*Key) Format(f fmt.State, _ rune) { _, _ = io.WriteString(f, redacted) }

// MarshalText keeps encoders, JSON among them, from looking inside.
func (*Key) MarshalText() ([]byte, error) { return []byte(redacted), nil }

// LogValue implements slog.LogValuer.
func (*Key) LogValue() slog.Value { return slog.StringValue(redacted) }
