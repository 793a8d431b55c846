package redirect

import "net/netip"

// Names and numbers that an administrator can meet in a namespace.
const (
	PodTable  = "towpath"      // nftables table (family inet) in pods
	NodeTable = "towpath-node" // nftables table (family inet) in the node's namespace

	Mark       = 0x539 // packet mark of sockets that ztunnel uses
	ReturnMark = 0x111 // connection and packet mark of what must find back to ztunnel
	MarkMask   = 0xfff // the bits of marks that are ours

	RouteTable   = 100   // routing table: everything is local
	RulePriority = 32764 // of the routing rule for ReturnMark
)

// The addresses that kubelet's probes come from, seen from inside a pod.
var (
	ProbeAddr4 = netip.MustParseAddr("169.254.7.127")
	ProbeAddr6 = netip.MustParseAddr("fd16:9254:7127:1337:ffff:ffff:ffff:ffff")
)

// Ruleset is one nftables table of family inet.
type Ruleset struct {
	Table  string
	Sets   []Set
	Chains []Chain
}

// Set is a named set of addresses of one family. What is in it is not part of
// the rules.
type Set struct {
	Name string
	IPv6 bool
}

// Chain is a base chain that accepts what no rule decides.
type Chain struct {
	Name     string
	Type     ChainType
	Hook     Hook
	Priority int // lower ones come first
	Rules    []Rule
}

// ChainType is the nftables type of a chain.
type ChainType string

// Chain types: ChainNAT sees only the first packet of a connection; ChainRoute
// looks the route up again when a mark changes.
const (
	ChainFilter ChainType = "filter"
	ChainRoute  ChainType = "route"
	ChainNAT    ChainType = "nat"
)

// Hook is where in a packet's way a chain stands.
type Hook string

// The hooks that are used.
const (
	Prerouting  Hook = "prerouting"
	Output      Hook = "output"
	Postrouting Hook = "postrouting"
)

// Priorities as nft names them.
const (
	priorityMangle = -150
	priorityDstNAT = -100
	prioritySrcNAT = 100
)

// Rule does Action to packets to which every match applies.
type Rule struct {
	Matches []Match
	Action  Action
}

// Pod returns the rules of an enrolled pod.
func Pod() Ruleset {
	r := DrainingPod()
	for i := range r.Chains {
		c := &r.Chains[i]
		switch c.Name {
		case "nat-prerouting":
			c.Rules = append(c.Rules, Rule{[]Match{localDestination{}, opensTCP{}, notPort{15008}}, redirect{15006}})
		case "nat-output":
			c.Rules = append(c.Rules, Rule{[]Match{opensTCP{}}, redirect{15001}})
		}
	}
	return r
}

// DrainingPod returns the rules of a pod that is being let go: no new
// connection is captured, and captured ones go on. The translated addresses of
// these live as long as a chain of type nat exists.
func DrainingPod() Ruleset {
	return Ruleset{Table: PodTable, Chains: []Chain{
		{
			Name: "mangle-prerouting", Type: ChainFilter, Hook: Prerouting, Priority: priorityMangle,
			Rules: []Rule{{[]Match{hasMark{Mark}}, setConnMark{ReturnMark}}},
		},
		{
			Name: "mangle-output", Type: ChainRoute, Hook: Output, Priority: priorityMangle,
			Rules: []Rule{{[]Match{hasConnMark{ReturnMark}}, setMark{ReturnMark}}},
		},
		{
			Name: "nat-prerouting", Type: ChainNAT, Hook: Prerouting, Priority: priorityDstNAT,
			Rules: []Rule{
				{[]Match{hasMark{Mark}}, accept{}},
				{[]Match{fromAddr{ProbeAddr4}}, accept{}},
				{[]Match{fromAddr{ProbeAddr6}}, accept{}},
			},
		},
		{
			Name: "nat-output", Type: ChainNAT, Hook: Output, Priority: priorityDstNAT,
			Rules: []Rule{
				{[]Match{hasMark{Mark}}, accept{}},
				{[]Match{leavesBy{"lo"}}, accept{}},
				{[]Match{toAddr{ProbeAddr4}}, accept{}},
				{[]Match{toAddr{ProbeAddr6}}, accept{}},
			},
		},
	}}
}

// Names of the sets of enrolled pods' addresses in the node's table.
const (
	ProbedSet4 = "probed-v4"
	ProbedSet6 = "probed-v6"
)

// Node returns the rules of a node's own namespace: what a root process of the
// node (kubelet) sends to an enrolled pod by TCP comes from the probe address.
// They stand before the source translation of kube-proxy and CNI plugins.
func Node() Ruleset {
	return Ruleset{
		Table: NodeTable,
		Sets:  []Set{{Name: ProbedSet4}, {Name: ProbedSet6, IPv6: true}},
		Chains: []Chain{{
			Name: "nat-postrouting", Type: ChainNAT, Hook: Postrouting, Priority: prioritySrcNAT - 10,
			Rules: []Rule{
				{[]Match{sentByUser{0}, opensTCP{}, toSet{ProbedSet4, false}}, snat{ProbeAddr4}},
				{[]Match{sentByUser{0}, opensTCP{}, toSet{ProbedSet6, true}}, snat{ProbeAddr6}},
			},
		}},
	}
}
