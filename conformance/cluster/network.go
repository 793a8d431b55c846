package cluster

import (
	"context"
	"errors"
	"fmt"
	"os"
	"strings"
	"syscall"
)

// makeNetwork makes the bridge, and a network namespace with a link to the
// bridge for each node. What is there already is left alone.
func makeNetwork(ctx context.Context, nodes []node) error {
	if !exists("/sys/class/net/" + bridgeName) {
		if err := runAll(ctx, bridgeCommands()); err != nil {
			return fmt.Errorf("make bridge: %w", err)
		}
	}
	for _, n := range nodes {
		if exists("/run/netns/" + n.netns()) {
			continue
		}
		if err := runAll(ctx, nodeCommands(n, nodes)); err != nil {
			return fmt.Errorf("make network of %s: %w", n.Name, err)
		}
	}
	return runAll(ctx, machineRoutes(nodes))
}

func bridgeCommands() []string {
	return []string{
		"ip link add " + bridgeName + " type bridge",
		"ip address add " + machineCIDR + " dev " + bridgeName,
		"ip link set " + bridgeName + " up",
	}
}

// nodeCommands make the namespace of one node. Its eth0 is born in the
// namespace, so no half-made link stays behind in the machine's.
func nodeCommands(n node, all []node) []string {
	in := "ip -n " + n.netns() + " "
	commands := []string{
		"ip netns add " + n.netns(),
		fmt.Sprintf("ip link add %s type veth peer name eth0 netns %s", n.veth(), n.netns()),
		fmt.Sprintf("ip link set %s master %s up", n.veth(), bridgeName),
		in + "link set lo up",
		in + fmt.Sprintf("address add %s/24 dev eth0", n.IP),
		in + "link set eth0 up",
		in + "route add default via " + machineIP,
	}
	for _, other := range all {
		if other.Name != n.Name {
			commands = append(commands, in+fmt.Sprintf("route add %s via %s", other.PodCIDR, other.IP))
		}
	}
	return append(commands, fmt.Sprintf("nsenter --net=/run/netns/%s sysctl -q -w "+
		"net.ipv4.ip_forward=1 net.ipv4.conf.all.send_redirects=0 net.ipv4.conf.eth0.send_redirects=0", n.netns()))
}

// machineRoutes let the machine reach pods, Services (the API server calls
// webhooks by ClusterIP) and load balancer addresses.
func machineRoutes(nodes []node) []string {
	var commands []string
	for _, n := range nodes {
		commands = append(commands, fmt.Sprintf("ip route replace %s via %s", n.PodCIDR, n.IP))
	}
	for _, cidr := range []string{serviceCIDR, balancerCIDR} {
		commands = append(commands, fmt.Sprintf("ip route replace %s via %s", cidr, nodes[0].IP))
	}
	return commands
}

func runAll(ctx context.Context, commands []string) error {
	for _, command := range commands {
		if err := run(ctx, strings.Fields(command)...); err != nil {
			return err
		}
	}
	return nil
}

// removeNetwork undoes makeNetwork. The routes go with the bridge.
func removeNetwork(ctx context.Context, nodes []node) error {
	var errs []error
	for _, n := range nodes {
		if exists("/run/netns/" + n.netns()) {
			errs = append(errs, run(ctx, "ip", "netns", "delete", n.netns()))
		}
		errs = append(errs, removeLink(ctx, n.veth()))
	}
	errs = append(errs, removeLink(ctx, bridgeName), removeNetnsDir())
	return errors.Join(errs...)
}

// removeLink removes a link. That of a node goes with the node's namespace too,
// a moment after it, so it may vanish under our hands.
func removeLink(ctx context.Context, name string) error {
	if !exists("/sys/class/net/" + name) {
		return nil
	}
	err := run(ctx, "ip", "link", "delete", name)
	if !exists("/sys/class/net/" + name) {
		return nil
	}
	return err
}

// removeNetnsDir undoes what the first `ip netns add` of the machine did: it
// mounts /run/netns onto itself. It is left alone if anything else uses it.
func removeNetnsDir() error {
	entries, err := os.ReadDir("/run/netns")
	if err != nil || len(entries) > 0 {
		return nil
	}
	for syscall.Unmount("/run/netns", 0) == nil {
	}
	return ignoreGone(syscall.Rmdir("/run/netns"))
}
