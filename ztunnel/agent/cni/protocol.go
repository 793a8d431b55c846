package cni

import (
	"encoding/json"
	"errors"
	"fmt"
	"net/netip"

	"github.com/towpath-mesh/towpath/internal/mesh"
)

// Command is what the container runtime does with the pod.
type Command string

// The commands that the agent hears of.
const (
	Add Command = "ADD" // the pod's namespace is set up; nothing runs in it yet
	Del Command = "DEL" // the pod's processes have ended; the namespace follows
)

// Request is what the plugin asks of the agent, in one packet, with the
// descriptor of the pod's network namespace beside it.
type Request struct {
	Version   int             `json:"version"`
	Command   Command         `json:"command"`
	ID        mesh.WorkloadID `json:"id"`
	Namespace string          `json:"namespace"`
	Name      string          `json:"name"`
	// Addresses are those that the plugins before gave to the pod; with Del
	// there may be none.
	Addresses []netip.Addr `json:"addresses,omitempty"`
}

// response is the agent's answer: Error is empty when the pod may go on.
type response struct {
	Error string `json:"error,omitempty"`
}

const (
	protocolVersion = 1
	maxPacket       = 8 << 10 // bytes
	maxName         = 512     // bytes; Kubernetes allows 253
	maxAddresses    = 64
	maxError        = 2 << 10 // bytes
)

// decodeRequest parses and checks one packet.
func decodeRequest(packet []byte) (Request, error) {
	var r Request
	if err := json.Unmarshal(packet, &r); err != nil {
		return r, fmt.Errorf("request: %w", err)
	}
	switch {
	case r.Version != protocolVersion:
		return r, fmt.Errorf("the plugin speaks version %d of the protocol, the agent %d: one of them is being upgraded", r.Version, protocolVersion)
	case r.Command != Add && r.Command != Del:
		return r, errors.New("request with an unknown command")
	case r.ID == "" || r.Namespace == "" || r.Name == "":
		return r, errors.New("request without the pod's names")
	case len(r.ID) > maxName || len(r.Namespace) > maxName || len(r.Name) > maxName:
		return r, errors.New("request with a name that is too long")
	case len(r.Addresses) > maxAddresses:
		return r, errors.New("request with too many addresses")
	}
	return r, nil
}
