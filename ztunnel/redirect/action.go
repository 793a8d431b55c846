package redirect

import (
	"fmt"
	"net/netip"

	"github.com/google/nftables/binaryutil"
	"github.com/google/nftables/expr"
	"golang.org/x/sys/unix"
)

// Action is what a rule does to the packets it matches.
type Action interface {
	String() string // as nft prints it
	exprs() []expr.Any
	// apply does it to the packet; final says that later rules of the chain
	// are not asked.
	apply(p *Packet, o *Outcome) (final bool)
}

// accept ends the chain.
type accept struct{}

func (accept) String() string               { return "accept" }
func (accept) exprs() []expr.Any            { return []expr.Any{&expr.Verdict{Kind: expr.VerdictAccept}} }
func (accept) apply(*Packet, *Outcome) bool { return true }

// redirect sends the connection to a port of the namespace itself.
type redirect struct{ port uint16 }

func (a redirect) String() string { return fmt.Sprintf("redirect to :%d", a.port) }

func (a redirect) exprs() []expr.Any {
	return []expr.Any{
		&expr.Immediate{Register: register, Data: binaryutil.BigEndian.PutUint16(a.port)},
		&expr.Redir{RegisterProtoMin: register},
	}
}

func (a redirect) apply(_ *Packet, o *Outcome) bool {
	o.RedirectedTo = a.port
	return true
}

// setMark sets the packet mark's own bits.
type setMark struct{ value uint32 }

func (a setMark) String() string {
	return fmt.Sprintf("meta mark set meta mark & 0x%08x | 0x%08x", keptBits(a.value), a.value)
}

func (a setMark) exprs() []expr.Any {
	return []expr.Any{
		&expr.Meta{Key: expr.MetaKeyMARK, Register: register},
		ownBits(a.value),
		&expr.Meta{Key: expr.MetaKeyMARK, SourceRegister: true, Register: register},
	}
}

func (a setMark) apply(p *Packet, _ *Outcome) bool {
	p.Mark = p.Mark&^MarkMask | a.value
	return false
}

// setConnMark sets the connection mark's own bits.
type setConnMark struct{ value uint32 }

func (a setConnMark) String() string {
	return fmt.Sprintf("ct mark set ct mark & 0x%08x | 0x%08x", keptBits(a.value), a.value)
}

func (a setConnMark) exprs() []expr.Any {
	return []expr.Any{
		&expr.Ct{Key: expr.CtKeyMARK, Register: register},
		ownBits(a.value),
		&expr.Ct{Key: expr.CtKeyMARK, SourceRegister: true, Register: register},
	}
}

func (a setConnMark) apply(p *Packet, _ *Outcome) bool {
	p.ConnMark = p.ConnMark&^MarkMask | a.value
	return false
}

// keptBits is the mask that nft prints for ownBits: what | sets it need not
// clear.
func keptBits(value uint32) uint32 { return ^uint32(MarkMask) | value }

// ownBits replaces the bits of MarkMask: (x & ^mask) ^ value.
func ownBits(value uint32) expr.Any {
	return &expr.Bitwise{
		SourceRegister: register, DestRegister: register, Len: 4,
		Mask: native(^uint32(MarkMask)), Xor: native(value),
	}
}

// snat makes the connection come from an address.
type snat struct{ addr netip.Addr }

func (a snat) String() string { return fmt.Sprintf("snat %s to %s", ipKeyword(a.addr.Is6()), a.addr) }

func (a snat) exprs() []expr.Any {
	f := uint32(unix.NFPROTO_IPV4)
	if a.addr.Is6() {
		f = unix.NFPROTO_IPV6
	}
	return []expr.Any{
		&expr.Immediate{Register: register, Data: a.addr.AsSlice()},
		&expr.NAT{Type: expr.NATTypeSourceNAT, Family: f, RegAddrMin: register},
	}
}

func (a snat) apply(_ *Packet, o *Outcome) bool {
	o.Source = a.addr
	return true
}
