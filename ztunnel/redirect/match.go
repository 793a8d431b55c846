package redirect

import (
	"fmt"
	"net/netip"

	"github.com/google/nftables"
	"github.com/google/nftables/binaryutil"
	"github.com/google/nftables/expr"
	"golang.org/x/sys/unix"
)

// Match is a condition on a packet. The same value is printed, compiled for
// the kernel and evaluated by Trace.
type Match interface {
	String() string // as nft prints it
	exprs(sets map[string]*nftables.Set) []expr.Any
	applies(p *Packet) bool
}

// register is where every match works; none needs a second one.
const register = 1

func equal(data []byte) expr.Any {
	return &expr.Cmp{Op: expr.CmpOpEq, Register: register, Data: data}
}

func masked(mask []byte) expr.Any {
	return &expr.Bitwise{SourceRegister: register, DestRegister: register, Len: uint32(len(mask)), Mask: mask, Xor: make([]byte, len(mask))}
}

func family(v6 bool) []expr.Any {
	proto := byte(unix.NFPROTO_IPV4)
	if v6 {
		proto = unix.NFPROTO_IPV6
	}
	return []expr.Any{&expr.Meta{Key: expr.MetaKeyNFPROTO, Register: register}, equal([]byte{proto})}
}

func native(v uint32) []byte { return binaryutil.NativeEndian.PutUint32(v) }

// hasMark: the packet mark's own bits are as given.
type hasMark struct{ value uint32 }

func (m hasMark) String() string {
	return fmt.Sprintf("meta mark & 0x%08x == 0x%08x", MarkMask, m.value)
}

func (m hasMark) exprs(map[string]*nftables.Set) []expr.Any {
	return []expr.Any{
		&expr.Meta{Key: expr.MetaKeyMARK, Register: register},
		masked(native(MarkMask)), equal(native(m.value)),
	}
}

func (m hasMark) applies(p *Packet) bool { return p.Mark&MarkMask == m.value }

// hasConnMark: the connection mark's own bits are as given.
type hasConnMark struct{ value uint32 }

func (m hasConnMark) String() string {
	return fmt.Sprintf("ct mark & 0x%08x == 0x%08x", MarkMask, m.value)
}

func (m hasConnMark) exprs(map[string]*nftables.Set) []expr.Any {
	return []expr.Any{
		&expr.Ct{Key: expr.CtKeyMARK, Register: register},
		masked(native(MarkMask)), equal(native(m.value)),
	}
}

func (m hasConnMark) applies(p *Packet) bool { return p.ConnMark&MarkMask == m.value }

// opensTCP: a TCP segment that opens a connection.
type opensTCP struct{}

const (
	tcpFlagsOffset = 13
	tcpFIN         = 0x01
	tcpSYN         = 0x02
	tcpRST         = 0x04
	tcpACK         = 0x10
)

func (opensTCP) String() string { return "tcp flags syn / fin,syn,rst,ack" }

func (opensTCP) exprs(map[string]*nftables.Set) []expr.Any {
	return []expr.Any{
		&expr.Meta{Key: expr.MetaKeyL4PROTO, Register: register}, equal([]byte{unix.IPPROTO_TCP}),
		&expr.Payload{DestRegister: register, Base: expr.PayloadBaseTransportHeader, Offset: tcpFlagsOffset, Len: 1},
		masked([]byte{tcpFIN | tcpSYN | tcpRST | tcpACK}), equal([]byte{tcpSYN}),
	}
}

func (opensTCP) applies(p *Packet) bool { return p.Protocol == TCP && p.SYN }

// notPort: the TCP destination port is another. It stands after opensTCP.
type notPort struct{ port uint16 }

func (m notPort) String() string { return fmt.Sprintf("tcp dport != %d", m.port) }

func (m notPort) exprs(map[string]*nftables.Set) []expr.Any {
	return []expr.Any{
		&expr.Payload{DestRegister: register, Base: expr.PayloadBaseTransportHeader, Offset: 2, Len: 2},
		&expr.Cmp{Op: expr.CmpOpNeq, Register: register, Data: binaryutil.BigEndian.PutUint16(m.port)},
	}
}

func (m notPort) applies(p *Packet) bool { return p.Destination.Port() != m.port }

// localDestination: the destination is an address of the namespace.
type localDestination struct{}

func (localDestination) String() string { return "fib daddr type local" }

func (localDestination) exprs(map[string]*nftables.Set) []expr.Any {
	return []expr.Any{
		&expr.Fib{Register: register, FlagDADDR: true, ResultADDRTYPE: true},
		equal(native(unix.RTN_LOCAL)),
	}
}

func (localDestination) applies(p *Packet) bool { return p.DestinationLocal }

// leavesBy: the packet's route leads to that interface.
type leavesBy struct{ name string }

func (m leavesBy) String() string { return fmt.Sprintf("oifname %q", m.name) }

func (m leavesBy) exprs(map[string]*nftables.Set) []expr.Any {
	name := make([]byte, unix.IFNAMSIZ)
	copy(name, m.name)
	return []expr.Any{&expr.Meta{Key: expr.MetaKeyOIFNAME, Register: register}, equal(name)}
}

func (m leavesBy) applies(p *Packet) bool { return p.Output == m.name }

// Offsets of the addresses in an IP header.
const (
	source4, destination4 = 12, 16
	source6, destination6 = 8, 24
)

func loadAddress(v6 bool, offset4, offset6 uint32) expr.Any {
	p := &expr.Payload{DestRegister: register, Base: expr.PayloadBaseNetworkHeader, Offset: offset4, Len: 4}
	if v6 {
		p.Offset, p.Len = offset6, 16
	}
	return p
}

func ipKeyword(v6 bool) string {
	if v6 {
		return "ip6"
	}
	return "ip"
}

// fromAddr: the source address is that one.
type fromAddr struct{ addr netip.Addr }

func (m fromAddr) String() string {
	return fmt.Sprintf("%s saddr %s", ipKeyword(m.addr.Is6()), m.addr)
}

func (m fromAddr) exprs(map[string]*nftables.Set) []expr.Any {
	return append(family(m.addr.Is6()), loadAddress(m.addr.Is6(), source4, source6), equal(m.addr.AsSlice()))
}

func (m fromAddr) applies(p *Packet) bool { return p.Source.Addr() == m.addr }

// toAddr: the destination address is that one.
type toAddr struct{ addr netip.Addr }

func (m toAddr) String() string {
	return fmt.Sprintf("%s daddr %s", ipKeyword(m.addr.Is6()), m.addr)
}

func (m toAddr) exprs(map[string]*nftables.Set) []expr.Any {
	return append(family(m.addr.Is6()), loadAddress(m.addr.Is6(), destination4, destination6), equal(m.addr.AsSlice()))
}

func (m toAddr) applies(p *Packet) bool { return p.Destination.Addr() == m.addr }

// toSet: the destination address is in the named set.
type toSet struct {
	name string
	v6   bool
}

func (m toSet) String() string { return fmt.Sprintf("%s daddr @%s", ipKeyword(m.v6), m.name) }

func (m toSet) exprs(sets map[string]*nftables.Set) []expr.Any {
	set := sets[m.name]
	return append(family(m.v6),
		loadAddress(m.v6, destination4, destination6),
		&expr.Lookup{SourceRegister: register, SetName: set.Name, SetID: set.ID})
}

func (m toSet) applies(p *Packet) bool {
	return p.Destination.Addr().Is6() == m.v6 && p.Sets[m.name][p.Destination.Addr()]
}

// sentByUser: a local process of that user sent the packet. It never applies
// to what is forwarded.
type sentByUser struct{ uid uint32 }

func (m sentByUser) String() string { return fmt.Sprintf("meta skuid %d", m.uid) }

func (m sentByUser) exprs(map[string]*nftables.Set) []expr.Any {
	return []expr.Any{&expr.Meta{Key: expr.MetaKeySKUID, Register: register}, equal(native(m.uid))}
}

func (m sentByUser) applies(p *Packet) bool { return p.User != nil && *p.User == m.uid }
