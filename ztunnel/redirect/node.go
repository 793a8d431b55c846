package redirect

import (
	"fmt"
	"net/netip"
	"slices"

	"github.com/google/nftables"

	"github.com/towpath-mesh/towpath/ztunnel/netns"
)

// SetProbed makes the node's rules cover exactly those pod addresses, and
// installs the rules if they are not intact. It is cheap when nothing has
// changed.
func (k Kernel) SetProbed(node *netns.NS, addrs []netip.Addr) error {
	members := map[string][]netip.Addr{}
	for _, a := range addrs {
		a = a.Unmap()
		if a.Is6() {
			members[ProbedSet6] = append(members[ProbedSet6], a)
		} else {
			members[ProbedSet4] = append(members[ProbedSet4], a)
		}
	}
	rules := Node()
	ok, err := rules.intact(node)
	if err != nil {
		return err
	}
	if !ok {
		return rules.install(node, members)
	}
	for _, s := range rules.Sets {
		if err := s.update(node, rules.table(), members[s.Name]); err != nil {
			return fmt.Errorf("set %s: %w", s.Name, err)
		}
	}
	return nil
}

// RemoveProbed removes the node's rules and sets.
func (k Kernel) RemoveProbed(node *netns.NS) error { return Node().uninstall(node) }

// Probed returns the addresses that the node's rules cover, sorted.
func (k Kernel) Probed(node *netns.NS) ([]netip.Addr, error) {
	var out []netip.Addr
	rules := Node()
	for _, s := range rules.Sets {
		addrs, err := s.members(node, rules.table())
		if err != nil {
			return nil, fmt.Errorf("set %s: %w", s.Name, err)
		}
		out = append(out, addrs...)
	}
	slices.SortFunc(out, netip.Addr.Compare)
	return out, nil
}

func (s Set) members(ns *netns.NS, t *nftables.Table) ([]netip.Addr, error) {
	c, err := nft(ns)
	if err != nil {
		return nil, err
	}
	elems, err := c.GetSetElements(s.kernel(t))
	if err != nil {
		return nil, err
	}
	var out []netip.Addr
	for _, e := range elems {
		if a, ok := netip.AddrFromSlice(e.Key); ok {
			out = append(out, a)
		}
	}
	return out, nil
}

// update adds what is missing and deletes what is too much.
func (s Set) update(ns *netns.NS, t *nftables.Table, want []netip.Addr) error {
	have, err := s.members(ns, t)
	if err != nil {
		return err
	}
	missing := slices.DeleteFunc(slices.Clone(want), func(a netip.Addr) bool { return slices.Contains(have, a) })
	surplus := slices.DeleteFunc(have, func(a netip.Addr) bool { return slices.Contains(want, a) })
	if len(missing)+len(surplus) == 0 {
		return nil
	}
	c, err := nft(ns)
	if err != nil {
		return err
	}
	set := s.kernel(t)
	if len(surplus) > 0 {
		if err := c.SetDeleteElements(set, elements(surplus)); err != nil {
			return err
		}
	}
	if len(missing) > 0 {
		if err := c.SetAddElements(set, elements(missing)); err != nil {
			return err
		}
	}
	return c.Flush()
}
