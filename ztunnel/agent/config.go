package agent

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"os"
	"path/filepath"
	"strings"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/collectors"
	"github.com/spiffe/go-spiffe/v2/spiffeid"
	"golang.org/x/sync/errgroup"

	"github.com/towpath-mesh/towpath/identity"
	"github.com/towpath-mesh/towpath/internal/admin"
	"github.com/towpath-mesh/towpath/internal/configstream"
	"github.com/towpath-mesh/towpath/internal/mesh"
	"github.com/towpath-mesh/towpath/ztunnel/agent/cni"
	"github.com/towpath-mesh/towpath/ztunnel/netns"
	"github.com/towpath-mesh/towpath/ztunnel/redirect"
)

// Names of the sockets in Config.RunDir.
const (
	ZTunnelSocket = "ztunnel.sock"
	CNISocket     = "cni.sock"
)

// Config is everything that the program is told.
type Config struct {
	NodeName          string
	ControllerAddress string // host:port
	TrustDomain       string
	SystemNamespace   string // where the controller runs
	RootCert          string // path of the trust bundle, PEM
	Token             string // path of the service account token
	Version           string

	HostProc string // the host's proc file system, mounted writable
	RunDir   string // a directory of the host, for the sockets

	// CNI plugin; ConfDir empty leaves the CNI configuration alone.
	CNIConfDir        string
	CNIBinDir         string
	CNIBinary         string // the plugin's program, in the image
	HostRunDir        string // RunDir as the host names it; RunDir if ""
	ExcludeNamespaces []string

	ZTunnelUID uint32
	Release    ReleaseTimes // how running pods are let go

	Addresses admin.Addresses
}

func (c *Config) check() error {
	var errs []error
	for flag, value := range map[string]string{
		"node-name": c.NodeName, "controller-address": c.ControllerAddress, "trust-domain": c.TrustDomain,
		"root-cert": c.RootCert, "token": c.Token, "host-proc": c.HostProc, "run-dir": c.RunDir,
	} {
		if value == "" {
			errs = append(errs, fmt.Errorf("--%s must not be empty", flag))
		}
	}
	if c.CNIConfDir != "" && (c.CNIBinDir == "" || c.CNIBinary == "") {
		errs = append(errs, errors.New("--cni-conf-dir needs --cni-bin-dir and --cni-binary"))
	}
	return errors.Join(errs...)
}

// Run is the program. It returns when ctx ends, or with what kept it from
// running.
func Run(ctx context.Context, c Config, log *slog.Logger) error {
	if err := c.check(); err != nil {
		return err
	}
	node, err := netns.Self()
	if err != nil {
		return err
	}
	defer node.Close()
	if err := os.MkdirAll(c.RunDir, 0o755); err != nil {
		return err
	}
	registry := prometheus.NewRegistry()
	registry.MustRegister(collectors.NewGoCollector(), collectors.NewProcessCollector(collectors.ProcessCollectorOpts{}))
	holder := NewHolder(HolderOptions{
		Socket: filepath.Join(c.RunDir, ZTunnelSocket), UIDs: []uint32{c.ZTunnelUID},
		Node: node, Proc: c.HostProc, Log: log,
	})
	defer holder.Close()
	worlds := new(mesh.Store)
	a := New(Options{
		Node: c.NodeName, Holder: holder, Worlds: worlds,
		Find:              (&finder{proc: c.HostProc, own: node.Inode()}).find,
		ExcludeNamespaces: c.ExcludeNamespaces, Release: c.Release, Log: log, Registry: registry,
	})
	adm := admin.New("node-agent", registry)
	adm.Dump("pods", func() any { return holder.Status() })
	stream, err := c.stream(worlds, log, registry, a, adm.Gate("config"))
	if err != nil {
		return err
	}
	a.SetReport(stream.Report)

	group, ctx := errgroup.WithContext(ctx)
	group.Go(func() error { return ended(adm.Run(ctx, c.Addresses)) })
	group.Go(func() error { return ended(holder.Run(ctx)) })
	group.Go(func() error { return ended(stream.Run(ctx)) })
	group.Go(func() error { return ended(a.Run(ctx)) })
	server := &cni.Server{Path: filepath.Join(c.RunDir, CNISocket), Handle: a.HandleCNI, Log: log}
	group.Go(func() error { return ended(server.Run(ctx)) })
	if c.CNIConfDir != "" {
		ready := adm.Gate("cni")
		group.Go(func() error { return ended(c.installer(log).Run(ctx, ready)) })
	}
	return group.Wait()
}

// ended turns the end of a context into success.
func ended(err error) error {
	if errors.Is(err, context.Canceled) {
		return nil
	}
	return err
}

func (c *Config) stream(worlds *mesh.Store, log *slog.Logger, registry prometheus.Registerer, a *Agent, ready func()) (*configstream.Client, error) {
	td, err := spiffeid.TrustDomainFromString(c.TrustDomain)
	if err != nil {
		return nil, fmt.Errorf("--trust-domain: %w", err)
	}
	controller, err := identity.ForServiceAccount(td, c.SystemNamespace, "towpath-controller")
	if err != nil {
		return nil, fmt.Errorf("identity of the controller: %w", err)
	}
	roots := identity.FileBundle(c.RootCert, func(err error) { log.Warn("cannot read the trust bundle", "error", err) })
	return configstream.NewClient(configstream.ClientOptions{
		Address: c.ControllerAddress,
		TLS:     identity.ControllerClientTLS(roots, controller),
		Token: func() (string, error) {
			b, err := os.ReadFile(c.Token)
			return strings.TrimSpace(string(b)), err
		},
		Node: c.NodeName, Role: configstream.RoleNodeAgent, Version: c.Version,
		Worlds: worlds, Log: log, Registry: registry,
		OnSynced: func() { a.SetSynced(); ready() },
	}), nil
}

func (c *Config) installer(log *slog.Logger) *cni.Installer {
	dir := c.HostRunDir
	if dir == "" {
		dir = c.RunDir
	}
	return &cni.Installer{
		ConfDir: c.CNIConfDir, BinDir: c.CNIBinDir, Binary: c.CNIBinary, Log: log,
		Config: cni.PluginConfig{Socket: filepath.Join(dir, CNISocket), ExcludeNamespaces: c.ExcludeNamespaces},
	}
}

// Cleanup removes everything that the agent has put on the node: the plugin, so
// that pods start without it, the rules in the namespaces of all running
// processes, and the node's own. The agent must not be running. It goes on
// after errors and returns all.
func Cleanup(c Config, log *slog.Logger) error {
	node, err := netns.Self()
	if err != nil {
		return err
	}
	defer node.Close()
	var errs []error
	if c.CNIConfDir != "" {
		errs = append(errs, c.installer(log).Remove())
	}
	kernel := redirect.Kernel{Proc: c.HostProc}
	released, err := releaseAll(kernel, c.HostProc, node.Inode())
	errs = append(errs, err, kernel.RemoveProbed(node))
	for _, name := range []string{ZTunnelSocket, CNISocket} {
		if err := os.Remove(filepath.Join(c.RunDir, name)); !errors.Is(err, fs.ErrNotExist) {
			errs = append(errs, err)
		}
	}
	log.Info("cleaned up", "namespaces", released)
	return errors.Join(errs...)
}

// releaseAll removes the rules of pods from every namespace but the node's.
func releaseAll(kernel redirect.Kernel, proc string, own uint64) (released int, err error) {
	paths, err := filepath.Glob(filepath.Join(proc, "[0-9]*", "ns", "net"))
	if err != nil {
		return 0, err
	}
	var errs []error
	seen := map[uint64]bool{own: true}
	for _, path := range paths {
		ns, err := netns.Open(path)
		if err != nil {
			continue // the process has ended
		}
		if !seen[ns.Inode()] {
			seen[ns.Inode()] = true
			had, err := kernel.Present(ns)
			if err == nil && had {
				released++
				err = kernel.Release(ns)
			}
			errs = append(errs, err)
		}
		errs = append(errs, ns.Close())
	}
	return released, errors.Join(errs...)
}
