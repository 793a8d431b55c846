package cluster

import (
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"fmt"
	"io"
	"math/big"
)

// conformanceImages are the images in the manifests of the Gateway API
// conformance suite. The versions differ upstream by little, and not in what the
// tests look at.
func conformanceImages(basic, server, client string) ([]Image, error) {
	echoBasic := BinaryImage("", basic)
	echoBasic.Names = []string{
		"registry.k8s.io/gateway-api/echo-basic:v1.5.1",
		"registry.k8s.io/gateway-api/echo-basic:v1.6.0-dev.2",
		"registry.k8s.io/gateway-api/echo-basic:v1.6.0-dev.3",
	}
	echoBasic.User = "65532"

	cert, key, err := echoCertificate()
	if err != nil {
		return nil, err
	}
	echoAdvanced := Image{
		Names: []string{"registry.k8s.io/gateway-api/echo-advanced:v1.5.1"},
		Files: []File{
			{Path: "/usr/local/bin/server", Source: server, Mode: 0o755},
			// The suite executes the bare word "client".
			{Path: "/usr/local/bin/client", Source: client, Mode: 0o755},
			{Path: "/cert.crt", Content: cert},
			{Path: "/cert.key", Content: key},
		},
		Entrypoint: []string{"/usr/local/bin/server"},
		Env:        []string{"PATH=/usr/local/bin:/usr/bin:/bin"},
		User:       "1338",
	}
	return []Image{echoBasic, echoAdvanced}, nil
}

// echoCertificate makes the key pair with which echo-advanced serves TLS. No
// test of the suite verifies it.
func echoCertificate() (cert, key []byte, err error) {
	private, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return nil, nil, err
	}
	template := newTemplate(pkix.Name{CommonName: "server.default.svc"})
	template.SerialNumber = big.NewInt(1)
	template.DNSNames = []string{"server.default.svc", "localhost"}
	template.KeyUsage = x509.KeyUsageDigitalSignature
	template.ExtKeyUsage = []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth}
	certDER, err := x509.CreateCertificate(rand.Reader, template, template, private.Public(), private)
	if err != nil {
		return nil, nil, err
	}
	keyDER, err := x509.MarshalPKCS8PrivateKey(private)
	if err != nil {
		return nil, nil, err
	}
	cert = pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: certDER})
	key = pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: keyDER})
	return cert, key, nil
}

// LoadConformanceImages builds and loads the images of the Gateway API
// conformance suite.
func (c *Cluster) LoadConformanceImages(ctx context.Context, log io.Writer) error {
	paths, err := Build(ctx, log, echoTools...)
	if err != nil {
		return err
	}
	images, err := conformanceImages(paths[0], paths[1], paths[2])
	if err != nil {
		return err
	}
	for _, image := range images {
		if err := c.LoadImage(ctx, image); err != nil {
			return err
		}
		for _, name := range image.Names {
			fmt.Fprintf(log, "loaded %s\n", name)
		}
	}
	return nil
}
