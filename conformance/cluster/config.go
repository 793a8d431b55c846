package cluster

import (
	"bytes"
	"embed"
	"encoding/base64"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"syscall"
	"text/template"
)

//go:embed templates
var templateFS embed.FS

var templates = template.Must(template.New("").Option("missingkey=error").ParseFS(templateFS, "templates/*"))

// Images that the cluster itself needs.
const (
	pauseImage   = "registry.k8s.io/pause:3.10"
	corednsImage = "registry.k8s.io/coredns/coredns:v1.12.2"
)

// settings is what the templates may refer to.
type settings struct {
	Domain, DNS, PodCIDR string
	Pause, CoreDNS       string
	PKI                  string
	OpenFiles            uint64
	Node                 nodeSettings
}

type nodeSettings struct {
	Name, PodCIDR, ConfigDir, Cgroup string
}

func (l layout) settings(n node) settings {
	return settings{
		Domain:  clusterDomain,
		DNS:     dnsServiceIP,
		PodCIDR: podCIDR,
		Pause:   pauseImage,
		CoreDNS: corednsImage,
		PKI:     l.path("pki"),

		OpenFiles: openFilesLimit(),
		Node: nodeSettings{
			Name:      n.Name,
			PodCIDR:   n.PodCIDR.String(),
			ConfigDir: filepath.Join(n.dir, "config"),
			Cgroup:    n.podCgroup(),
		},
	}
}

// openFilesLimit is the number of files that a process here may have open.
func openFilesLimit() uint64 {
	var limit syscall.Rlimit
	if err := syscall.Getrlimit(syscall.RLIMIT_NOFILE, &limit); err != nil {
		return 1024
	}
	return limit.Max
}

func render(name string, data any) ([]byte, error) {
	var out bytes.Buffer
	if err := templates.ExecuteTemplate(&out, name, data); err != nil {
		return nil, fmt.Errorf("render %s: %w", name, err)
	}
	return out.Bytes(), nil
}

func renderFile(path, name string, data any) error {
	text, err := render(name, data)
	if err != nil {
		return err
	}
	return writeFile(path, text, 0o644)
}

// writeKubeconfig writes a kubeconfig with the client certificate of that name.
func (l layout) writeKubeconfig(path, certName string) error {
	data := map[string]string{"Server": apiURL(), "User": certName}
	for key, file := range map[string]string{
		"CA": "ca.crt", "Certificate": certName + ".crt", "Key": certName + ".key",
	} {
		text, err := os.ReadFile(l.pki(file))
		if err != nil {
			return fmt.Errorf("write %s: %w", path, err)
		}
		data[key] = base64.StdEncoding.EncodeToString(text)
	}
	text, err := render("kubeconfig.yaml", data)
	if err != nil {
		return err
	}
	return writeFile(path, text, 0o600)
}

func apiURL() string { return fmt.Sprintf("https://%s:%d", machineIP, apiPort) }

// writeControlPlaneConfig writes the files of the control plane's processes.
func (l layout) writeControlPlaneConfig() error {
	for path, cert := range map[string]string{
		l.kubeconfig(): "admin",
		l.config("controller-manager.kubeconfig"): "controller-manager",
		l.config("scheduler.kubeconfig"):          "scheduler",
	} {
		if err := l.writeKubeconfig(path, cert); err != nil {
			return err
		}
	}
	none := l.settings(node{})
	if err := renderFile(l.config("authentication.yaml"), "authentication.yaml", none); err != nil {
		return err
	}
	return renderFile(l.config("coredns.yaml"), "coredns.yaml", none)
}

// writeNodeConfig writes the files of one node. The CNI configuration is written
// only once: others may have added a plugin to it since.
func (l layout) writeNodeConfig(n node) error {
	data := l.settings(n)
	for _, name := range []string{"containerd.toml", "kubelet.yaml", "kube-proxy.yaml"} {
		if err := renderFile(n.config(name), name, data); err != nil {
			return err
		}
	}
	if err := l.writeKubeconfig(n.config("kubelet.kubeconfig"), n.Name); err != nil {
		return err
	}
	if err := l.writeKubeconfig(n.config("kube-proxy.kubeconfig"), "kube-proxy"); err != nil {
		return err
	}
	resolv := "# Pods that do not use the cluster's name server have none.\n"
	if err := writeFile(n.config("resolv.conf"), []byte(resolv), 0o644); err != nil {
		return err
	}
	cni := n.file("/etc/cni/net.d/10-towpath-cluster.conflist")
	if !exists(cni) {
		if err := renderFile(cni, "cni.conflist", data); err != nil {
			return err
		}
	}
	return copyPlugins(n.file("/opt/cni/bin"))
}

// debianPluginDir is where the package containernetworking-plugins installs.
const debianPluginDir = "/usr/lib/cni"

// copyPlugins copies the CNI plugins: a plugin that a test installs must land on
// one node only.
func copyPlugins(dir string) error {
	for _, name := range []string{"host-local", "loopback", "portmap", "ptp"} {
		if exists(filepath.Join(dir, name)) {
			continue
		}
		data, err := fs.ReadFile(os.DirFS(debianPluginDir), name)
		if err != nil {
			return fmt.Errorf("copy CNI plugins: %w", err)
		}
		if err := writeFile(filepath.Join(dir, name), data, 0o755); err != nil {
			return fmt.Errorf("copy CNI plugins: %w", err)
		}
	}
	return nil
}
