package handoff

import (
	"reflect"
	"strings"
	"testing"
)

func TestDecode(t *testing.T) {
	pod := `{"id":"u","namespace":"n","name":"p","serviceAccount":"s","listeners":["hbone","outbound"]}`
	tests := []struct {
		packet string
		fds    int
		ok     bool
	}{
		{`{"kind":"hello","versions":[1,2]}`, 0, true},
		{`{"kind":"hello","versions":[1],"later":true}`, 0, true},
		{`{"kind":"hello"}`, 0, false},
		{`{"kind":"add","seq":1,"pod":` + pod + `}`, 2, true},
		{`{"kind":"add","seq":1,"pod":` + pod + `}`, 1, false},
		{`{"kind":"add","seq":1,"pod":` + pod + `}`, 3, false},
		{`{"kind":"add","seq":1}`, 0, false},
		{`{"kind":"add","seq":1,"pod":{"id":"u","listeners":[]}}`, 0, false},
		{`{"kind":"add","seq":1,"pod":{"id":"u","listeners":["dns"]}}`, 1, false},
		{`{"kind":"add","pod":{"id":"` + strings.Repeat("u", maxName+1) + `","listeners":["hbone"]}}`, 1, false},
		{`{"kind":"remove","id":"u"}`, 0, true},
		{`{"kind":"remove"}`, 0, false},
		{`{"kind":"remove","id":"u"}`, 1, false},
		{`{"kind":"sockets","id":"u","family":4,"count":8}`, 0, true},
		{`{"kind":"sockets","id":"u","family":5,"count":8}`, 0, false},
		{`{"kind":"sockets","id":"u","family":4,"count":1000}`, 0, false},
		{`{"kind":"sockets","id":"u","family":4,"count":-1}`, 0, false},
		{`{"kind":"sockets","seq":4}`, 8, true},
		{`{"kind":"ack","seq":4}`, 1, false},
		{`{"kind":"stop"}`, 0, false},
		{``, 0, false},
		{strings.Repeat(" ", maxPacket) + `{"kind":"drain"}`, 0, false},
	}
	for _, tt := range tests {
		_, err := decode([]byte(tt.packet), tt.fds)
		if (err == nil) != tt.ok {
			t.Errorf("%.80s with %d descriptors: %v", tt.packet, tt.fds, err)
		}
	}
}

func FuzzDecode(f *testing.F) {
	f.Add([]byte(`{"kind":"hello","versions":[1]}`), 0)
	f.Add([]byte(`{"kind":"add","seq":1,"pod":{"id":"u","listeners":["hbone"]}}`), 1)
	f.Add([]byte(`{"kind":"sockets","id":"u","family":6,"count":8}`), 0)
	f.Add([]byte(`{"kind":"add","pod":null}`), 0)
	f.Fuzz(func(t *testing.T, packet []byte, fds int) {
		m, err := decode(packet, fds)
		if err != nil {
			return
		}
		if m.Kind == kindAdd && fds != len(m.Pod.Listeners) {
			t.Fatalf("%d descriptors for %d listeners", fds, len(m.Pod.Listeners))
		}
		b, err := m.encode()
		if err != nil {
			return // too long once escaped
		}
		again, err := decode(b, fds)
		if err != nil {
			t.Fatalf("%s, encoded as %s: %v", packet, b, err)
		}
		b2, err := again.encode()
		if err != nil || !reflect.DeepEqual(b, b2) {
			t.Fatalf("not stable: %s, then %s (%v)", b, b2, err)
		}
	})
}
