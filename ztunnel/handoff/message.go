package handoff

import (
	"encoding/json"
	"errors"
	"fmt"
	"slices"

	"github.com/towpath-mesh/towpath/internal/mesh"
)

// version is the one version of the protocol that this package speaks. The
// client says in its hello which ones it speaks; the server answers with the
// one to use, or with an error.
const version = 1

// Bounds of what a peer may send.
const (
	maxPacket  = 8 << 10 // bytes of one message
	maxFDs     = 128     // of one message; the kernel passes at most 253
	maxName    = 512     // bytes of one name
	maxText    = 1 << 10 // bytes of an error
	maxSockets = maxFDs  // in one batch
)

// kind is the type of a message.
type kind string

// A message that begins an exchange has a Seq of its sender's; the answer
// repeats it.
const (
	kindHello    kind = "hello"    // client: Versions, Started; server's answer: Versions with the one chosen
	kindAdd      kind = "add"      // server: Pod, and one descriptor for each of its Listeners -> ack
	kindRemove   kind = "remove"   // server: ID -> ack
	kindSnapshot kind = "snapshot" // server: all pods it has were sent
	kindSynced   kind = "synced"   // client: all pods of the snapshot are being served
	kindDrain    kind = "drain"    // server: another client took over
	kindAck      kind = "ack"      // either: Seq, and Error if it failed
	kindSockets  kind = "sockets"  // client: ID, Family, Count; server's answer: the descriptors, or Error
)

// message is one packet. Which fields count depends on Kind.
type message struct {
	Kind     kind   `json:"kind"`
	Seq      uint64 `json:"seq,omitempty"`
	Versions []int  `json:"versions,omitempty"`
	// Started is when the client's process was, in nanoseconds since 1970: of
	// two that are connected the younger serves. The order in which they connect
	// says nothing when the agent was restarted.
	Started int64           `json:"started,omitempty"`
	Pod     *podMessage     `json:"pod,omitempty"`
	ID      mesh.WorkloadID `json:"id,omitempty"`
	Family  Family          `json:"family,omitempty"`
	Count   int             `json:"count,omitempty"`
	Error   string          `json:"error,omitempty"`
}

type podMessage struct {
	ID             mesh.WorkloadID `json:"id"`
	Namespace      string          `json:"namespace"`
	Name           string          `json:"name"`
	ServiceAccount string          `json:"serviceAccount"`
	// NetNS is the inode number of the network namespace. A pod keeps its ID
	// when its sandbox is made anew, with another namespace.
	NetNS uint64 `json:"netns"`
	// Listeners says what each descriptor of the packet is, in their order.
	Listeners []Purpose `json:"listeners"`
}

// Family is an IP address family: 4 or 6.
type Family uint8

// The families.
const (
	IPv4 Family = 4
	IPv6 Family = 6
)

// Purpose says what a listening socket is for.
type Purpose string

// The purposes, by the port the sockets listen on.
const (
	Outbound  Purpose = "outbound"  // mesh.PortOutbound
	Plaintext Purpose = "plaintext" // mesh.PortPlaintext
	HBONE     Purpose = "hbone"     // mesh.PortHBONE
)

// encode renders a message. Errors that are too long are cut.
func (m message) encode() ([]byte, error) {
	if len(m.Error) > maxText {
		m.Error = m.Error[:maxText]
	}
	b, err := json.Marshal(m)
	if err != nil {
		return nil, fmt.Errorf("encode %s: %w", m.Kind, err)
	}
	if len(b) > maxPacket {
		return nil, fmt.Errorf("encode %s: %d bytes, at most %d fit", m.Kind, len(b), maxPacket)
	}
	return b, nil
}

// decode parses one packet that came with fds descriptors and checks that it
// is complete. Fields it does not know are ignored: a later version may add
// some.
func decode(packet []byte, fds int) (message, error) {
	var m message
	if len(packet) > maxPacket {
		return m, fmt.Errorf("message of %d bytes, at most %d are allowed", len(packet), maxPacket)
	}
	if err := json.Unmarshal(packet, &m); err != nil {
		return m, fmt.Errorf("message: %w", err)
	}
	if err := m.validate(); err != nil {
		return m, fmt.Errorf("message %q: %w", m.Kind, err)
	}
	if want := m.descriptors(); want >= 0 && fds != want {
		return m, fmt.Errorf("message %q with %d descriptors, want %d", m.Kind, fds, want)
	}
	return m, nil
}

// descriptors returns how many descriptors a message must come with, or -1 for
// an answer, which only who asked can judge.
func (m message) descriptors() int {
	switch m.Kind {
	case kindAdd:
		return len(m.Pod.Listeners)
	case kindSockets:
		if m.Count == 0 { // the answer
			return -1
		}
	}
	return 0
}

func (m message) validate() error {
	if len(m.Error) > maxText || len(m.ID) > maxName || len(m.Versions) > 16 {
		return errors.New("field too long")
	}
	switch m.Kind {
	case kindHello:
		if len(m.Versions) == 0 && m.Error == "" {
			return errors.New("no version")
		}
	case kindAdd:
		return m.Pod.validate()
	case kindRemove:
		if m.ID == "" {
			return errors.New("no pod")
		}
	case kindSockets:
		return m.validateSockets()
	case kindSnapshot, kindSynced, kindDrain, kindAck:
	default:
		return errors.New("unknown kind")
	}
	return nil
}

func (m message) validateSockets() error {
	if m.Count == 0 { // the answer
		return nil
	}
	if m.ID == "" || m.Count < 0 || m.Count > maxSockets || (m.Family != IPv4 && m.Family != IPv6) {
		return errors.New("no such sockets")
	}
	return nil
}

func (p *podMessage) validate() error {
	if p == nil || p.ID == "" {
		return errors.New("no pod")
	}
	for _, s := range []string{string(p.ID), p.Namespace, p.Name, p.ServiceAccount} {
		if len(s) > maxName {
			return errors.New("name too long")
		}
	}
	if len(p.Listeners) == 0 || len(p.Listeners) > maxFDs {
		return fmt.Errorf("%d listeners", len(p.Listeners))
	}
	for _, l := range p.Listeners {
		if !slices.Contains([]Purpose{Outbound, Plaintext, HBONE}, l) {
			return errors.New("listener without a known purpose")
		}
	}
	return nil
}
