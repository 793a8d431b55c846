package identity

import (
	"crypto/tls"
	"crypto/x509"
	"errors"

	"github.com/spiffe/go-spiffe/v2/spiffeid"
)

// alpnH2 is the only protocol spoken inside mesh TLS: HTTP/2, for tunnels and
// for gRPC.
const alpnH2 = "h2"

// base is what all TLS of the mesh has in common. Verification is always in
// VerifyConnection, the one hook that crypto/tls also calls on a resumed
// session; resumption is off nevertheless, so that each connection shows a
// certificate. Curve preferences stay Go's, with its hybrid post-quantum key
// exchange. Records are large from the start: a tunnel carries bulk, and the
// writes of its HTTP/2 frames decide the record size for small traffic.
func base() *tls.Config {
	return &tls.Config{
		MinVersion:                  tls.VersionTLS13,
		NextProtos:                  []string{alpnH2},
		SessionTicketsDisabled:      true,
		DynamicRecordSizingDisabled: true,
	}
}

// ServerTLS is for the accepting end of mesh connections. It presents src's
// certificate, and demands one from the client that chains to the bundle that
// src holds at that moment and whose identity m accepts.
func ServerTLS(src Source, m Matcher) *tls.Config {
	c := base()
	c.ClientAuth = tls.RequireAnyClientCert
	c.GetCertificate = func(*tls.ClientHelloInfo) (*tls.Certificate, error) { return certificate(src) }
	c.VerifyConnection = verifier(src, x509.ExtKeyUsageClientAuth, m)
	return c
}

// ClientTLS is for the dialling end of mesh connections. It sends no server
// name (identities are not host names) and judges the server as ServerTLS
// judges clients.
func ClientTLS(src Source, m Matcher) *tls.Config {
	c := base()
	// The ordinary verification compares host names; verifier does it all.
	c.InsecureSkipVerify = true
	c.GetClientCertificate = func(*tls.CertificateRequestInfo) (*tls.Certificate, error) { return certificate(src) }
	c.VerifyConnection = verifier(src, x509.ExtKeyUsageServerAuth, m)
	return c
}

// ControllerServerTLS is for the controller's port: its clients have no
// certificate yet and authenticate with a token inside the connection.
func ControllerServerTLS(src Source) *tls.Config {
	c := base()
	c.GetCertificate = func(*tls.ClientHelloInfo) (*tls.Certificate, error) { return certificate(src) }
	return c
}

// ControllerClientTLS is for connections to the controller, which must prove to
// be the given identity. roots is called on each handshake (see FileBundle); as
// long as it returns nil, handshakes fail.
func ControllerClientTLS(roots func() *Bundle, controller spiffeid.ID) *tls.Config {
	c := base()
	// As in ClientTLS.
	c.InsecureSkipVerify = true
	c.VerifyConnection = func(cs tls.ConnectionState) error {
		return verifyPeer(cs.PeerCertificates, roots(), x509.ExtKeyUsageServerAuth, OneOf(controller))
	}
	return c
}

func certificate(src Source) (*tls.Certificate, error) {
	m, err := src.Current()
	if err != nil {
		return nil, err
	}
	return &m.cert, nil
}

func verifier(src Source, usage x509.ExtKeyUsage, m Matcher) func(tls.ConnectionState) error {
	return func(cs tls.ConnectionState) error {
		own, err := src.Current()
		if err != nil {
			return err
		}
		return verifyPeer(cs.PeerCertificates, own.bundle, usage, m)
	}
}

// PeerID returns the identity of the other end of a finished handshake made
// with one of this package's configurations. It does not verify anything again.
// It fails for a connection on which the peer showed no certificate.
func PeerID(cs tls.ConnectionState) (spiffeid.ID, error) {
	if !cs.HandshakeComplete {
		return spiffeid.ID{}, errors.New("peer identity: the handshake is not finished")
	}
	if len(cs.PeerCertificates) == 0 {
		return spiffeid.ID{}, errors.New("peer identity: the peer has shown no certificate")
	}
	return leafID(cs.PeerCertificates[0])
}
