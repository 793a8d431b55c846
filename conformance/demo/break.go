package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"time"
)

// The verb "break": what is lost when parts of Towpath die under load. Requests
// on new connections must all be answered; an established connection through a
// ztunnel that is killed dies with it, and is counted.

// killControllers deletes every controller at once, without a grace period.
func (d *demo) killControllers(ctx context.Context) error {
	l, err := d.during(ctx, 10*time.Second, func() error {
		if err := d.kubectl(ctx, "-n", "towpath-system", "delete", "pods", "-l", "app.kubernetes.io/name=towpath-controller", "--grace-period=0", "--force"); err != nil {
			return err
		}
		_, err := d.ask(ctx, nil, "-n", "towpath-system", "rollout", "status", "deployment/towpath-controller", "--timeout=90s")
		return err
	})
	if err != nil {
		return err
	}
	return d.noneLost("all controllers killed, and back", l)
}

// killZTunnel kills the process on each node in turn, as the kernel would.
func (d *demo) killZTunnel(ctx context.Context) error {
	pids, err := processes("/usr/local/bin/ztunnel")
	if err != nil {
		return err
	}
	a, err := d.counts(ctx)
	if err != nil {
		return err
	}
	for _, pid := range pids {
		d.say("$ kill -9 %d    # ztunnel", pid)
		if err := syscall.Kill(pid, syscall.SIGKILL); err != nil {
			return err
		}
		if err := pause(ctx, 8*time.Second); err != nil {
			return err
		}
	}
	b, err := d.counts(ctx)
	if err != nil {
		return err
	}
	for _, way := range []string{"new connection", "keep-alive"} {
		d.say("%-15s %5d requests, %d lost", way, b.Requests[way]-a.Requests[way], b.Failures[way]-a.Failures[way])
	}
	if l := since(a, b); l.failures > 0 {
		d.say("newest failure: %s", l.newest)
	}
	return nil
}

// upgradeZTunnel replaces ztunnel on every node by a new generation.
func (d *demo) upgradeZTunnel(ctx context.Context) error {
	l, err := d.during(ctx, 15*time.Second, func() error {
		return d.kubectl(ctx, "-n", "towpath-system", "rollout", "restart", "daemonset/towpath-ztunnel")
	})
	if err != nil {
		return err
	}
	return d.noneLost("ztunnel replaced on every node", l)
}

// editRoute changes the weights while requests run.
func (d *demo) editRoute(ctx context.Context) error {
	const edits = 50
	l, err := d.during(ctx, 2*time.Second, func() error {
		for i := range edits {
			patch := fmt.Sprintf(`[{"op":"replace","path":"/spec/rules/1/backendRefs/0/weight","value":%d}]`, 10+i%80)
			if _, err := d.ask(ctx, nil, "-n", "shop", "patch", "httproute", "catalog", "--type=json", "-p", patch); err != nil {
				return err
			}
		}
		return nil
	})
	if err != nil {
		return err
	}
	return d.noneLost(fmt.Sprintf("route edited %d times", edits), l)
}

// rollBackend replaces the pods of a service behind the waypoint.
func (d *demo) rollBackend(ctx context.Context) error {
	l, err := d.during(ctx, 5*time.Second, func() error {
		if err := d.kubectl(ctx, "-n", "shop", "rollout", "restart", "deployment/catalog-v1"); err != nil {
			return err
		}
		_, err := d.ask(ctx, nil, "-n", "shop", "rollout", "status", "deployment/catalog-v1", "--timeout=60s")
		return err
	})
	if err != nil {
		return err
	}
	return d.noneLost("pods of catalog-v1 replaced", l)
}

// processes finds programs by the path that they were started with. The nodes
// of the local cluster share the machine's process table.
func processes(program string) ([]int, error) {
	dirs, err := filepath.Glob("/proc/[0-9]*/cmdline")
	if err != nil {
		return nil, err
	}
	var pids []int
	for _, file := range dirs {
		line, err := os.ReadFile(file)
		if err != nil || !strings.HasPrefix(string(line), program+"\x00") {
			continue
		}
		pid, err := strconv.Atoi(filepath.Base(filepath.Dir(file)))
		if err != nil {
			return nil, err
		}
		pids = append(pids, pid)
	}
	if len(pids) == 0 {
		return nil, errors.New("no process " + program)
	}
	return pids, nil
}
