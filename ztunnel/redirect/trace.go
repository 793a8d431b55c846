package redirect

import (
	"cmp"
	"net/netip"
	"slices"
)

// Protocol is a transport protocol, by its number in the IP header.
type Protocol uint8

// The protocols that matter here.
const (
	TCP Protocol = 6
	UDP Protocol = 17
)

// Packet is a packet as rules see it.
type Packet struct {
	Protocol    Protocol
	Source      netip.AddrPort
	Destination netip.AddrPort
	// SYN: it opens a TCP connection.
	SYN bool
	// Tracked: it belongs to a connection of which connection tracking has
	// seen a packet. Chains of type nat do not see it.
	Tracked bool
	// Mark and ConnMark are changed by Trace.
	Mark, ConnMark uint32
	// DestinationLocal: the namespace owns the destination address.
	DestinationLocal bool
	// Output is the interface that the route leads to.
	Output string
	// User is the owner of the local socket that sent it, nil for what came
	// from outside.
	User *uint32
	// Sets is what the named sets contain.
	Sets map[string]map[netip.Addr]bool
}

// Outcome is what the rules did.
type Outcome struct {
	RedirectedTo uint16     // local port, 0: not redirected
	Source       netip.Addr // new source address, the zero Addr: unchanged
	Rule         string     // the last rule that applied, "" for none
}

// Trace follows a packet through the chains of the hooks, in the order given
// and then that of the priorities. It edits the packet's marks.
func (r Ruleset) Trace(p *Packet, hooks ...Hook) Outcome {
	var o Outcome
	for _, hook := range hooks {
		for _, c := range r.chainsAt(hook) {
			if c.Type == ChainNAT && p.Tracked {
				continue
			}
			c.trace(p, &o)
		}
	}
	return o
}

func (r Ruleset) chainsAt(hook Hook) []Chain {
	chains := slices.Clone(r.Chains)
	chains = slices.DeleteFunc(chains, func(c Chain) bool { return c.Hook != hook })
	slices.SortStableFunc(chains, func(a, b Chain) int { return cmp.Compare(a.Priority, b.Priority) })
	return chains
}

func (c Chain) trace(p *Packet, o *Outcome) {
	for _, r := range c.Rules {
		if slices.ContainsFunc(r.Matches, func(m Match) bool { return !m.applies(p) }) {
			continue
		}
		o.Rule = r.String()
		if r.Action.apply(p, o) {
			return
		}
	}
}
