package redirect

import (
	"errors"
	"fmt"
	"net"

	"github.com/vishvananda/netlink"
	vns "github.com/vishvananda/netns"
	"golang.org/x/sys/unix"

	"github.com/towpath-mesh/towpath/ztunnel/netns"
)

// routing is the policy routing of a pod, in one address family: packets with
// ReturnMark are delivered locally, whatever their destination.
type routing struct {
	family int
	all    *net.IPNet
}

var (
	routing4 = routing{netlink.FAMILY_V4, &net.IPNet{IP: net.IPv4zero.To4(), Mask: net.CIDRMask(0, 32)}}
	routing6 = routing{netlink.FAMILY_V6, &net.IPNet{IP: net.IPv6zero, Mask: net.CIDRMask(0, 128)}}
)

func withNetlink(ns *netns.NS, f func(h *netlink.Handle) error) error {
	h, err := netlink.NewHandleAt(vns.NsHandle(ns.FD()), unix.NETLINK_ROUTE)
	if err != nil {
		return fmt.Errorf("netlink: %w", err)
	}
	defer h.Close()
	return f(h)
}

func (r routing) rule() *netlink.Rule {
	mask := uint32(MarkMask)
	rule := netlink.NewRule()
	rule.Family = r.family
	rule.Mark = ReturnMark
	rule.Mask = &mask
	rule.Table = RouteTable
	rule.Priority = RulePriority
	return rule
}

func (r routing) route(h *netlink.Handle) (*netlink.Route, error) {
	lo, err := h.LinkByName("lo")
	if err != nil {
		return nil, fmt.Errorf("loopback: %w", err)
	}
	route := &netlink.Route{
		Family: r.family, Table: RouteTable, Type: unix.RTN_LOCAL,
		LinkIndex: lo.Attrs().Index, Dst: r.all,
	}
	if r.family == netlink.FAMILY_V4 {
		route.Scope = netlink.SCOPE_HOST
	}
	return route, nil
}

func (r routing) install(h *netlink.Handle) error {
	route, err := r.route(h)
	if err != nil {
		return err
	}
	if err := h.RouteReplace(route); err != nil {
		return fmt.Errorf("route of table %d: %w", RouteTable, err)
	}
	if err := h.RuleAdd(r.rule()); err != nil && !errors.Is(err, unix.EEXIST) {
		return fmt.Errorf("rule for mark %#x: %w", ReturnMark, err)
	}
	return nil
}

func (r routing) intact(h *netlink.Handle) (bool, error) {
	rules, err := r.ownRules(h)
	if err != nil || len(rules) == 0 {
		return false, err
	}
	routes, err := r.ownRoutes(h)
	return len(routes) > 0, err
}

func (r routing) uninstall(h *netlink.Handle) error {
	rules, err := r.ownRules(h)
	if errors.Is(err, unix.EAFNOSUPPORT) || errors.Is(err, unix.EOPNOTSUPP) {
		return nil
	}
	if err != nil {
		return err
	}
	for i := range rules {
		rules[i].Family = r.family
		if err := h.RuleDel(&rules[i]); err != nil && !errors.Is(err, unix.ENOENT) {
			return fmt.Errorf("delete rule for mark %#x: %w", ReturnMark, err)
		}
	}
	routes, err := r.ownRoutes(h)
	if err != nil {
		return err
	}
	for i := range routes {
		if err := h.RouteDel(&routes[i]); err != nil && !errors.Is(err, unix.ESRCH) {
			return fmt.Errorf("delete route of table %d: %w", RouteTable, err)
		}
	}
	return nil
}

func (r routing) ownRules(h *netlink.Handle) ([]netlink.Rule, error) {
	rules, err := h.RuleList(r.family)
	if err != nil {
		return nil, fmt.Errorf("list rules: %w", err)
	}
	var own []netlink.Rule
	for _, rule := range rules {
		if rule.Mark == ReturnMark && rule.Table == RouteTable && rule.Mask != nil && *rule.Mask == MarkMask {
			own = append(own, rule)
		}
	}
	return own, nil
}

// ownRoutes lists local default routes of the table.
func (r routing) ownRoutes(h *netlink.Handle) ([]netlink.Route, error) {
	filter := &netlink.Route{Table: RouteTable, Type: unix.RTN_LOCAL}
	routes, err := h.RouteListFiltered(r.family, filter, netlink.RT_FILTER_TABLE|netlink.RT_FILTER_TYPE)
	if err != nil {
		return nil, fmt.Errorf("list routes of table %d: %w", RouteTable, err)
	}
	return routes, nil
}
