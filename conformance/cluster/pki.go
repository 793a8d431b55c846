package cluster

import (
	"crypto"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/rsa"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"errors"
	"fmt"
	"math/big"
	"net"
	"os"
	"time"
)

// certificate describes one certificate of the cluster and its key.
type certificate struct {
	name   string // of the files, without ending
	ca     string // the issuer's file name
	user   string // common name
	groups []string
	hosts  []string // names and addresses of a server; none for a client
}

// certificates lists what the cluster needs besides its two authorities.
func certificates(nodes []node) []certificate {
	list := []certificate{
		{name: "apiserver", ca: "ca", user: "kube-apiserver", hosts: []string{
			machineIP, apiServiceIP, "127.0.0.1", "localhost", "kubernetes", "kubernetes.default",
			"kubernetes.default.svc", "kubernetes.default.svc." + clusterDomain,
		}},
		{name: "apiserver-kubelet-client", ca: "ca", user: "kube-apiserver-kubelet-client", groups: []string{"system:masters"}},
		{name: "front-proxy-client", ca: "front-proxy-ca", user: "front-proxy-client"},
		{name: "admin", ca: "ca", user: "kubernetes-admin", groups: []string{"system:masters"}},
		{name: "controller-manager", ca: "ca", user: "system:kube-controller-manager"},
		{name: "scheduler", ca: "ca", user: "system:kube-scheduler"},
		{name: "kube-proxy", ca: "ca", user: "system:kube-proxy"},
	}
	for _, n := range nodes {
		list = append(list,
			certificate{name: n.Name, ca: "ca", user: "system:node:" + n.Name, groups: []string{"system:nodes"}},
			certificate{name: n.Name + "-server", ca: "ca", user: n.Name, hosts: []string{n.Name, n.IP.String()}})
	}
	return list
}

// makePKI makes the authorities, certificates and the key of service accounts
// that are missing. Existing ones stay, so that running processes keep working.
func (l layout) makePKI(nodes []node) error {
	for _, name := range []string{"ca", "front-proxy-ca"} {
		if err := l.makeAuthority(name); err != nil {
			return fmt.Errorf("make authority %s: %w", name, err)
		}
	}
	for _, c := range certificates(nodes) {
		if err := l.makeCertificate(c); err != nil {
			return fmt.Errorf("make certificate %s: %w", c.name, err)
		}
	}
	if exists(l.pki("sa.key")) {
		return nil
	}
	return l.makeServiceAccountKey()
}

// makeServiceAccountKey makes an RSA key: verifiers of tokens everywhere know
// RS256, not all of them ES256.
func (l layout) makeServiceAccountKey() error {
	key, err := rsa.GenerateKey(rand.Reader, 2048)
	if err != nil {
		return err
	}
	public, err := x509.MarshalPKIXPublicKey(key.Public())
	if err != nil {
		return err
	}
	if err := writePEM(l.pki("sa.pub"), "PUBLIC KEY", public, 0o644); err != nil {
		return err
	}
	return writeKey(l.pki("sa.key"), key)
}

func (l layout) makeAuthority(name string) error {
	if exists(l.pki(name + ".crt")) {
		return nil
	}
	template := newTemplate(pkix.Name{CommonName: "towpath-cluster-" + name})
	template.IsCA, template.BasicConstraintsValid = true, true
	template.KeyUsage = x509.KeyUsageCertSign | x509.KeyUsageDigitalSignature | x509.KeyUsageCRLSign
	return l.issue(name, template, "")
}

func (l layout) makeCertificate(c certificate) error {
	if exists(l.pki(c.name + ".crt")) {
		return nil
	}
	template := newTemplate(pkix.Name{CommonName: c.user, Organization: c.groups})
	template.KeyUsage = x509.KeyUsageDigitalSignature
	template.ExtKeyUsage = []x509.ExtKeyUsage{x509.ExtKeyUsageClientAuth}
	if len(c.hosts) > 0 {
		template.ExtKeyUsage = []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth}
	}
	for _, host := range c.hosts {
		if ip := net.ParseIP(host); ip != nil {
			template.IPAddresses = append(template.IPAddresses, ip)
		} else {
			template.DNSNames = append(template.DNSNames, host)
		}
	}
	return l.issue(c.name, template, c.ca)
}

func newTemplate(subject pkix.Name) *x509.Certificate {
	return &x509.Certificate{
		Subject:   subject,
		NotBefore: time.Now().Add(-time.Hour),
		NotAfter:  time.Now().AddDate(1, 0, 0),
	}
}

// issue writes a key and its certificate, signed by the named authority or, if
// that is empty, by itself. The certificate comes last: it says that both exist.
func (l layout) issue(name string, template *x509.Certificate, authority string) error {
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return err
	}
	if template.SerialNumber, err = rand.Int(rand.Reader, new(big.Int).Lsh(big.NewInt(1), 120)); err != nil {
		return err
	}
	parent, signer := template, crypto.Signer(key)
	if authority != "" {
		if parent, signer, err = l.loadAuthority(authority); err != nil {
			return err
		}
	}
	der, err := x509.CreateCertificate(rand.Reader, template, parent, key.Public(), signer)
	if err != nil {
		return err
	}
	if err := writeKey(l.pki(name+".key"), key); err != nil {
		return err
	}
	return writePEM(l.pki(name+".crt"), "CERTIFICATE", der, 0o644)
}

func (l layout) loadAuthority(name string) (*x509.Certificate, crypto.Signer, error) {
	certDER, err := readPEM(l.pki(name + ".crt"))
	if err != nil {
		return nil, nil, err
	}
	cert, err := x509.ParseCertificate(certDER)
	if err != nil {
		return nil, nil, err
	}
	keyDER, err := readPEM(l.pki(name + ".key"))
	if err != nil {
		return nil, nil, err
	}
	key, err := x509.ParsePKCS8PrivateKey(keyDER)
	if err != nil {
		return nil, nil, err
	}
	signer, ok := key.(crypto.Signer)
	if !ok {
		return nil, nil, errors.New("key cannot sign")
	}
	return cert, signer, nil
}

func writeKey(path string, key any) error {
	der, err := x509.MarshalPKCS8PrivateKey(key)
	if err != nil {
		return err
	}
	return writePEM(path, "PRIVATE KEY", der, 0o600)
}

func writePEM(path, kind string, der []byte, mode os.FileMode) error {
	return writeFile(path, pem.EncodeToMemory(&pem.Block{Type: kind, Bytes: der}), mode)
}

func readPEM(path string) ([]byte, error) {
	text, err := os.ReadFile(path)
	if err != nil {
		return nil, err
	}
	block, _ := pem.Decode(text)
	if block == nil {
		return nil, fmt.Errorf("%s: no PEM block", path)
	}
	return block.Bytes, nil
}

func exists(path string) bool {
	_, err := os.Stat(path)
	return err == nil
}
