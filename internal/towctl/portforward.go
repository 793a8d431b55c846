package towctl

import (
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net/http"

	"k8s.io/client-go/tools/portforward"
	"k8s.io/client-go/transport/spdy"

	"github.com/towpath-mesh/towpath/internal/mesh"
)

// dump reads one section of a pod's config dump, from its loopback admin port.
func (c *cluster) dump(ctx context.Context, namespace, pod, section string, into any) error {
	stop := make(chan struct{})
	ready := make(chan struct{})
	defer close(stop)
	fw, err := c.forwarder(namespace, pod, stop, ready)
	if err != nil {
		return err
	}
	failed := make(chan error, 1)
	go func() { failed <- fw.ForwardPorts() }()
	select {
	case <-ctx.Done():
		return ctx.Err()
	case err := <-failed:
		return fmt.Errorf("port-forward to pod %s/%s: %w", namespace, pod, err)
	case <-ready:
	}
	ports, err := fw.GetPorts()
	if err != nil {
		return err
	}
	url := fmt.Sprintf("http://127.0.0.1:%d/config_dump?name=%s", ports[0].Local, section)
	sections := map[string]json.RawMessage{}
	if err := getJSON(ctx, url, &sections); err != nil {
		return fmt.Errorf("pod %s/%s: %w", namespace, pod, err)
	}
	return json.Unmarshal(sections[section], into)
}

func (c *cluster) forwarder(namespace, pod string, stop, ready chan struct{}) (*portforward.PortForwarder, error) {
	rt, upgrader, err := spdy.RoundTripperFor(c.config)
	if err != nil {
		return nil, err
	}
	url := c.client.CoreV1().RESTClient().Post().Resource("pods").Namespace(namespace).Name(pod).SubResource("portforward").URL()
	dialer := spdy.NewDialer(upgrader, &http.Client{Transport: rt}, http.MethodPost, url)
	return portforward.NewOnAddresses(dialer, []string{"127.0.0.1"}, []string{fmt.Sprintf("0:%d", mesh.PortAdmin)}, stop, ready, io.Discard, io.Discard)
}

func getJSON(ctx context.Context, url string, into any) error {
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, url, nil)
	if err != nil {
		return err
	}
	resp, err := (&http.Client{Transport: &http.Transport{DisableKeepAlives: true}}).Do(req)
	if err != nil {
		return err
	}
	defer resp.Body.Close()
	body, err := io.ReadAll(io.LimitReader(resp.Body, 64<<20))
	if err != nil {
		return err
	}
	if resp.StatusCode != http.StatusOK {
		return fmt.Errorf("config dump: %s: %.200s", resp.Status, body)
	}
	return json.Unmarshal(body, into)
}
