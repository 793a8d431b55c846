package cni

import (
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net/netip"
	"os"
	"slices"
	"time"

	"github.com/containernetworking/cni/pkg/skel"
	"github.com/containernetworking/cni/pkg/types"
	current "github.com/containernetworking/cni/pkg/types/100"
	"github.com/containernetworking/cni/pkg/version"

	"github.com/towpath-mesh/towpath/internal/mesh"
)

// PluginType is the plugin's name in CNI configurations, and its file's.
const PluginType = "towpath-cni"

const (
	// DefaultTimeout is how long a pod's start waits for the agent. Kubelet
	// tries again after a failure.
	DefaultTimeout = 30 * time.Second
	// delTimeout bounds what the end of a pod waits for.
	delTimeout = 5 * time.Second
)

// PluginConfig is the plugin's entry in a CNI configuration list.
type PluginConfig struct {
	types.PluginConf
	// Socket is the path of the agent's socket on the host.
	Socket string `json:"socket"`
	// ExcludeNamespaces are let through without a question to the agent.
	ExcludeNamespaces []string `json:"excludeNamespaces"`
	// TimeoutSeconds replaces DefaultTimeout unless it is 0.
	TimeoutSeconds int `json:"timeoutSeconds,omitempty"`
}

// podArgs are CNI_ARGS as Kubernetes runtimes set them.
type podArgs struct {
	types.CommonArgs
	K8S_POD_NAME      types.UnmarshallableString //nolint:revive // CNI's spelling
	K8S_POD_NAMESPACE types.UnmarshallableString //nolint:revive // CNI's spelling
	K8S_POD_UID       types.UnmarshallableString //nolint:revive // CNI's spelling
}

// Plugin is the plugin program; results go to Out.
type Plugin struct{ Out io.Writer }

// Functions are the plugin's commands. CHECK, GC and STATUS say nothing: the
// agent keeps its own work intact, and a node must not count as without network
// while it is away.
func (p Plugin) Functions() skel.CNIFuncs {
	nothing := func(*skel.CmdArgs) error { return nil }
	return skel.CNIFuncs{Add: p.add, Del: p.del, Check: nothing, GC: nothing, Status: nothing}
}

// Versions are the versions of the CNI specification that the plugin speaks.
func Versions() version.PluginInfo { return version.VersionsStartingFrom("0.3.0") }

// add passes the result of the plugins before it on, once the pod may start.
func (p Plugin) add(args *skel.CmdArgs) error {
	conf, err := parseConfig(args.StdinData)
	if err != nil {
		return err
	}
	if conf.PrevResult == nil {
		return types.NewError(types.ErrInvalidNetworkConfig, "towpath-cni must be chained after the plugin that makes the pod's network", "")
	}
	r, wanted, err := request(Add, args, conf)
	if err != nil {
		return err
	}
	if wanted {
		if err := askForPod(conf, r, args.Netns, conf.timeout()); err != nil {
			return types.NewError(types.ErrTryAgainLater, fmt.Sprintf("towpath: pod %s/%s is not enrolled: %v", r.Namespace, r.Name, err), "")
		}
	}
	result, err := conf.PrevResult.GetAsVersion(conf.CNIVersion)
	if err != nil {
		return err
	}
	return result.PrintTo(p.Out)
}

// del lets the agent say goodbye for the pod. It never fails: a pod that ends
// must not hang on the mesh.
func (p Plugin) del(args *skel.CmdArgs) error {
	conf, err := parseConfig(args.StdinData)
	if err != nil {
		return nil
	}
	if r, wanted, err := request(Del, args, conf); err == nil && wanted {
		_ = askForPod(conf, r, args.Netns, delTimeout)
	}
	return nil
}

func (c *PluginConfig) timeout() time.Duration {
	if c.TimeoutSeconds > 0 {
		return time.Duration(c.TimeoutSeconds) * time.Second
	}
	return DefaultTimeout
}

func parseConfig(stdin []byte) (*PluginConfig, error) {
	conf := new(PluginConfig)
	if err := json.Unmarshal(stdin, conf); err != nil {
		return nil, types.NewError(types.ErrDecodingFailure, "towpath-cni: configuration: "+err.Error(), "")
	}
	if conf.Socket == "" {
		return nil, types.NewError(types.ErrInvalidNetworkConfig, "towpath-cni: configuration without a socket", "")
	}
	if err := version.ParsePrevResult(&conf.PluginConf); err != nil {
		return nil, types.NewError(types.ErrDecodingFailure, "towpath-cni: "+err.Error(), "")
	}
	return conf, nil
}

// request returns what to ask the agent. wanted is false for what is not a pod
// of Kubernetes, and for pods of spared namespaces.
func request(cmd Command, args *skel.CmdArgs, conf *PluginConfig) (r Request, wanted bool, err error) {
	pod := podArgs{}
	pod.IgnoreUnknown = true
	if err := types.LoadArgs(args.Args, &pod); err != nil {
		return r, false, types.NewError(types.ErrInvalidEnvironmentVariables, "towpath-cni: "+err.Error(), "")
	}
	r = Request{
		Command: cmd, ID: mesh.WorkloadID(pod.K8S_POD_UID),
		Namespace: string(pod.K8S_POD_NAMESPACE), Name: string(pod.K8S_POD_NAME),
	}
	if r.Name == "" || slices.Contains(conf.ExcludeNamespaces, r.Namespace) {
		return r, false, nil
	}
	if r.ID == "" {
		return r, false, types.NewError(types.ErrInvalidEnvironmentVariables, "towpath-cni: the container runtime does not name the pod's UID (containerd does since 1.6, CRI-O since 1.18)", "")
	}
	if conf.PrevResult == nil {
		return r, true, nil
	}
	result, err := current.NewResultFromResult(conf.PrevResult)
	if err != nil {
		return r, false, err
	}
	for _, ip := range result.IPs {
		if a, ok := netip.AddrFromSlice(ip.Address.IP); ok {
			r.Addresses = append(r.Addresses, a.Unmap())
		}
	}
	return r, true, nil
}

// askForPod opens the namespace and asks. A namespace that is gone is fine for
// Del only.
func askForPod(conf *PluginConfig, r Request, netns string, timeout time.Duration) error {
	ctx, cancel := context.WithTimeout(context.Background(), timeout)
	defer cancel()
	f, err := os.Open(netns)
	if err != nil {
		if r.Command == Del {
			return ask(ctx, conf.Socket, r, -1)
		}
		return fmt.Errorf("network namespace: %w", err)
	}
	defer f.Close()
	return ask(ctx, conf.Socket, r, int(f.Fd()))
}
