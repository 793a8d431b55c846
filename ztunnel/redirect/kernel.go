package redirect

import (
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"net/netip"
	"slices"

	"github.com/google/nftables"
	"github.com/google/nftables/userdata"
	"golang.org/x/sys/unix"

	"github.com/towpath-mesh/towpath/ztunnel/netns"
)

// nft opens a netlink connection in the namespace. It is closed by each Flush
// or answer.
func nft(ns *netns.NS) (*nftables.Conn, error) {
	c, err := nftables.New(nftables.WithNetNSFd(ns.FD()))
	if err != nil {
		return nil, fmt.Errorf("nftables: %w", err)
	}
	return c, nil
}

func (r Ruleset) table() *nftables.Table {
	return &nftables.Table{Name: r.Table, Family: nftables.TableFamilyINet}
}

// install replaces the table, in one transaction: no packet meets half of it.
// Sets keep nothing.
func (r Ruleset) install(ns *netns.NS, members map[string][]netip.Addr) error {
	c, err := nft(ns)
	if err != nil {
		return err
	}
	t := c.AddTable(r.table())
	c.DelTable(t) // which needs to exist, hence the line before
	t = c.AddTable(r.table())
	sets := map[string]*nftables.Set{}
	for _, s := range r.Sets {
		set := s.kernel(t)
		if err := c.AddSet(set, elements(members[s.Name])); err != nil {
			return fmt.Errorf("set %s: %w", s.Name, err)
		}
		sets[s.Name] = set
	}
	for _, ch := range r.Chains {
		kc := c.AddChain(ch.kernel(t))
		for _, rule := range ch.Rules {
			c.AddRule(rule.kernel(t, kc, sets))
		}
	}
	if err := c.Flush(); err != nil {
		return fmt.Errorf("install table %s: %w", r.Table, err)
	}
	return nil
}

// intact reports whether the table is as install left it. A table that is
// missing, has other chains, other rules or another order of them is not. What
// sets contain does not count.
func (r Ruleset) intact(ns *netns.NS) (bool, error) {
	c, chains, err := r.chains(ns)
	if err != nil || len(chains) != len(r.Chains) {
		return false, err
	}
	for _, want := range r.Chains {
		i := slices.IndexFunc(chains, func(ch *nftables.Chain) bool { return ch.Name == want.Name })
		if i < 0 || !want.like(chains[i]) {
			return false, nil
		}
		rules, err := c.GetRules(r.table(), chains[i])
		if err != nil {
			return false, fmt.Errorf("list rules of %s: %w", want.Name, err)
		}
		if !want.holds(rules) {
			return false, nil
		}
	}
	return true, nil
}

// present reports whether the table has any chain.
func (r Ruleset) present(ns *netns.NS) (bool, error) {
	_, chains, err := r.chains(ns)
	return len(chains) > 0, err
}

// chains lists those of the table.
func (r Ruleset) chains(ns *netns.NS) (*nftables.Conn, []*nftables.Chain, error) {
	c, err := nft(ns)
	if err != nil {
		return nil, nil, err
	}
	chains, err := c.ListChainsOfTableFamily(nftables.TableFamilyINet)
	if err != nil {
		return nil, nil, fmt.Errorf("list chains: %w", err)
	}
	return c, slices.DeleteFunc(chains, func(ch *nftables.Chain) bool { return ch.Table.Name != r.Table }), nil
}

// uninstall deletes the table. It is no error if there is none.
func (r Ruleset) uninstall(ns *netns.NS) error {
	c, err := nft(ns)
	if err != nil {
		return err
	}
	c.DelTable(r.table())
	if err := c.Flush(); err != nil && !errors.Is(err, unix.ENOENT) {
		return fmt.Errorf("delete table %s: %w", r.Table, err)
	}
	return nil
}

func (s Set) kernel(t *nftables.Table) *nftables.Set {
	kind := nftables.TypeIPAddr
	if s.IPv6 {
		kind = nftables.TypeIP6Addr
	}
	return &nftables.Set{Table: t, Name: s.Name, KeyType: kind}
}

func elements(addrs []netip.Addr) []nftables.SetElement {
	var out []nftables.SetElement
	for _, a := range addrs {
		out = append(out, nftables.SetElement{Key: a.AsSlice()})
	}
	return out
}

var kernelHooks = map[Hook]*nftables.ChainHook{
	Prerouting:  nftables.ChainHookPrerouting,
	Output:      nftables.ChainHookOutput,
	Postrouting: nftables.ChainHookPostrouting,
}

func (c Chain) kernel(t *nftables.Table) *nftables.Chain {
	policy := nftables.ChainPolicyAccept
	return &nftables.Chain{
		Name: c.Name, Table: t, Type: nftables.ChainType(c.Type),
		Hooknum:  kernelHooks[c.Hook],
		Priority: nftables.ChainPriorityRef(nftables.ChainPriority(c.Priority)),
		Policy:   &policy,
	}
}

func (c Chain) like(k *nftables.Chain) bool {
	return k.Type == nftables.ChainType(c.Type) &&
		k.Hooknum != nil && *k.Hooknum == *kernelHooks[c.Hook] &&
		k.Priority != nil && *k.Priority == nftables.ChainPriority(c.Priority)
}

// holds compares rules by the digests that install left in their comments.
func (c Chain) holds(rules []*nftables.Rule) bool {
	if len(rules) != len(c.Rules) {
		return false
	}
	for i, r := range c.Rules {
		comment, ok := userdata.GetString(rules[i].UserData, userdata.TypeComment)
		if !ok || comment != r.digest() {
			return false
		}
	}
	return true
}

func (r Rule) kernel(t *nftables.Table, c *nftables.Chain, sets map[string]*nftables.Set) *nftables.Rule {
	out := &nftables.Rule{Table: t, Chain: c}
	for _, m := range r.Matches {
		out.Exprs = append(out.Exprs, m.exprs(sets)...)
	}
	out.Exprs = append(out.Exprs, r.Action.exprs()...)
	out.UserData = userdata.AppendString(nil, userdata.TypeComment, r.digest())
	return out
}

// digest names the rule's content, to tell it from that of another version.
func (r Rule) digest() string {
	sum := sha256.Sum256([]byte(r.String()))
	return "towpath " + hex.EncodeToString(sum[:6])
}
