package configstream

import (
	"crypto/sha256"
	"encoding/base64"
	"fmt"

	discoverypb "github.com/envoyproxy/go-control-plane/envoy/service/discovery/v3"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/anypb"

	"github.com/towpath-mesh/towpath/internal/mesh"
	"github.com/towpath-mesh/towpath/internal/routing"
)

// resource is one value in the form in which it is sent: encoded once, and
// shared by all streams. It is immutable.
type resource struct {
	wire *discoverypb.Resource
	// node and proxy are whom it concerns, where its kind is not for everybody.
	node  string
	proxy mesh.ProxyKey
	needs []string
}

// versionBytes of a hash make an accidental match of two values of one
// resource impossible in practice; who can forge one changes only what is his.
const versionBytes = 12

// encode makes the wire form. The version is a hash of the content, so that
// every replica of the controller, and the next one after a restart, gives the
// same value the same version.
func encode(k kind, name string, m proto.Message) (*discoverypb.Resource, error) {
	b, err := proto.MarshalOptions{Deterministic: true}.Marshal(m)
	if err != nil {
		return nil, fmt.Errorf("%s %s: %w", k, name, err)
	}
	sum := sha256.Sum256(b)
	return &discoverypb.Resource{
		Name:     name,
		Version:  base64.RawStdEncoding.EncodeToString(sum[:versionBytes]),
		Resource: &anypb.Any{TypeUrl: k.typeURL(), Value: b},
	}, nil
}

func workloadResource(w *mesh.Workload) (resource, error) {
	m, err := encodeWorkload(w)
	if err != nil {
		return resource{}, fmt.Errorf("workload %s: %w", w.ID, err)
	}
	wire, err := encode(kindWorkload, string(w.ID), m)
	return resource{wire: wire, node: w.Node}, err
}

func sliceResource(s *mesh.EndpointSlice) (resource, error) {
	m, err := encodeSlice(s)
	if err != nil {
		return resource{}, fmt.Errorf("endpoint slice %s: %w", s.Key, err)
	}
	wire, err := encode(kindSlice, name(s.Key.Namespace, s.Key.Name), m)
	return resource{wire: wire}, err
}

func serviceResource(s *mesh.Service) (resource, error) {
	m, err := encodeService(s)
	if err != nil {
		return resource{}, fmt.Errorf("service %s: %w", s.Key, err)
	}
	wire, err := encode(kindService, name(s.Key.Namespace, s.Key.Name), m)
	return resource{wire: wire}, err
}

func tableResource(t *routing.Table) (resource, error) {
	m, err := encodeTable(t)
	if err != nil {
		return resource{}, fmt.Errorf("table %s: %w", tableName(t.Key), err)
	}
	wire, err := encode(kindTable, tableName(t.Key), m)
	return resource{wire: wire, proxy: t.Key.Proxy, needs: needsOf(t)}, err
}
