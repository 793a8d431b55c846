package cluster

import (
	"bytes"
	"context"
	"crypto/tls"
	"crypto/x509"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"os"
	"strings"
)

// apiClient speaks the little of the Kubernetes API that the cluster's own
// upkeep needs, which keeps the large client libraries out of this module.
type apiClient struct {
	http *http.Client
}

// newAPIClient returns a client that shows the client certificate of that name.
func (l layout) newAPIClient(certName string) (*apiClient, error) {
	cert, err := tls.LoadX509KeyPair(l.pki(certName+".crt"), l.pki(certName+".key"))
	if err != nil {
		return nil, fmt.Errorf("client certificate: %w", err)
	}
	ca, err := os.ReadFile(l.pki("ca.crt"))
	if err != nil {
		return nil, err
	}
	roots := x509.NewCertPool()
	roots.AppendCertsFromPEM(ca)
	transport := &http.Transport{
		TLSClientConfig:   &tls.Config{RootCAs: roots, Certificates: []tls.Certificate{cert}},
		ForceAttemptHTTP2: true,
	}
	return &apiClient{http: &http.Client{Transport: transport}}, nil
}

func (a *apiClient) close() { a.http.CloseIdleConnections() }

// get reads an object into out, which may be nil.
func (a *apiClient) get(ctx context.Context, path string, out any) error {
	body, err := a.open(ctx, http.MethodGet, path, nil)
	if err != nil {
		return err
	}
	defer body.Close()
	if out == nil {
		return nil
	}
	return json.NewDecoder(body).Decode(out)
}

// patch applies a JSON merge patch.
func (a *apiClient) patch(ctx context.Context, path string, change any) error {
	data, err := json.Marshal(change)
	if err != nil {
		return err
	}
	body, err := a.open(ctx, http.MethodPatch, path, data)
	if err != nil {
		return err
	}
	return body.Close()
}

// open sends a request and returns the body of a successful answer.
func (a *apiClient) open(ctx context.Context, method, path string, data []byte) (io.ReadCloser, error) {
	request, err := http.NewRequestWithContext(ctx, method, apiURL()+path, bytes.NewReader(data))
	if err != nil {
		return nil, err
	}
	if method == http.MethodPatch {
		request.Header.Set("Content-Type", "application/merge-patch+json")
	}
	response, err := a.http.Do(request)
	if err != nil {
		return nil, err
	}
	if response.StatusCode/100 != 2 {
		defer response.Body.Close()
		text, _ := io.ReadAll(io.LimitReader(response.Body, 300))
		return nil, fmt.Errorf("%s %s: %s: %s", method, path, response.Status, strings.TrimSpace(string(text)))
	}
	return response.Body, nil
}
