package cluster

import (
	"context"
	"fmt"
	"net/http"
	"strconv"
	"time"
)

// controlPlane names its processes in the order in which they start.
var controlPlane = []string{"etcd", "kube-apiserver", "kube-controller-manager", "kube-scheduler", "address-controller"}

func (l layout) etcd(bin string) process {
	return process{name: "etcd", argv: []string{bin,
		"--name=towpath", "--data-dir=" + l.path("etcd"),
		"--listen-client-urls=" + etcdURL, "--advertise-client-urls=" + etcdURL,
		"--listen-peer-urls=" + etcdPeerURL, "--initial-advertise-peer-urls=" + etcdPeerURL,
		"--initial-cluster=towpath=" + etcdPeerURL,
		// A crash of the machine may lose the cluster, which is made anew then.
		"--unsafe-no-fsync", "--log-level=warn",
	}}
}

func (l layout) apiServer(bin string) process {
	issuer := "https://kubernetes.default.svc." + clusterDomain
	return process{name: "kube-apiserver", argv: []string{bin,
		"--v=1",
		"--etcd-servers=" + etcdURL,
		"--bind-address=" + machineIP, "--advertise-address=" + machineIP,
		"--secure-port=" + strconv.Itoa(apiPort),
		"--tls-cert-file=" + l.pki("apiserver.crt"), "--tls-private-key-file=" + l.pki("apiserver.key"),
		"--client-ca-file=" + l.pki("ca.crt"),
		"--authentication-config=" + l.config("authentication.yaml"),
		"--authorization-mode=Node,RBAC", "--enable-admission-plugins=NodeRestriction",
		"--allow-privileged=true",
		"--service-cluster-ip-range=" + serviceCIDR,
		"--service-account-issuer=" + issuer,
		"--service-account-key-file=" + l.pki("sa.pub"),
		"--service-account-signing-key-file=" + l.pki("sa.key"),
		"--kubelet-certificate-authority=" + l.pki("ca.crt"),
		"--kubelet-client-certificate=" + l.pki("apiserver-kubelet-client.crt"),
		"--kubelet-client-key=" + l.pki("apiserver-kubelet-client.key"),
		"--kubelet-preferred-address-types=InternalIP",
		"--requestheader-client-ca-file=" + l.pki("front-proxy-ca.crt"),
		"--requestheader-allowed-names=front-proxy-client",
		"--requestheader-username-headers=X-Remote-User",
		"--requestheader-group-headers=X-Remote-Group",
		"--requestheader-extra-headers-prefix=X-Remote-Extra-",
		"--proxy-client-cert-file=" + l.pki("front-proxy-client.crt"),
		"--proxy-client-key-file=" + l.pki("front-proxy-client.key"),
		"--event-ttl=1h", "--profiling=false",
	}}
}

func (l layout) controllerManager(bin string) process {
	config := l.config("controller-manager.kubeconfig")
	return process{name: "kube-controller-manager", argv: []string{bin,
		"--v=1", "--bind-address=127.0.0.1",
		"--kubeconfig=" + config, "--authentication-kubeconfig=" + config, "--authorization-kubeconfig=" + config,
		"--use-service-account-credentials=true",
		"--service-account-private-key-file=" + l.pki("sa.key"),
		"--root-ca-file=" + l.pki("ca.crt"),
		"--cluster-signing-cert-file=" + l.pki("ca.crt"), "--cluster-signing-key-file=" + l.pki("ca.key"),
		"--leader-elect=false", "--profiling=false",
		// The default of 20 makes its start take five seconds.
		"--kube-api-qps=500", "--kube-api-burst=500",
	}}
}

func (l layout) scheduler(bin string) process {
	config := l.config("scheduler.kubeconfig")
	return process{name: "kube-scheduler", argv: []string{bin,
		"--v=1", "--bind-address=127.0.0.1",
		"--kubeconfig=" + config, "--authentication-kubeconfig=" + config, "--authorization-kubeconfig=" + config,
		"--leader-elect=false", "--profiling=false",
	}}
}

func (l layout) addressController(helper string) process {
	return process{name: "address-controller", argv: []string{helper, "address-controller", l.root}}
}

// startControlPlane starts the processes in the machine's namespaces, and
// returns when the API server answers.
func (c *Cluster) startControlPlane(ctx context.Context, b *builder) error {
	steps := []struct {
		tool  string
		spec  func(bin string) process
		ready func(context.Context) error
	}{
		{"etcd", c.files.etcd, etcdReady},
		{"kube-apiserver", c.files.apiServer, c.apiReady},
		{"kube-controller-manager", c.files.controllerManager, nil},
		{"kube-scheduler", c.files.scheduler, nil},
		{"cluster", c.files.addressController, nil},
	}
	for _, step := range steps {
		bin, err := b.need(ctx, step.tool)
		if err != nil {
			return err
		}
		p := step.spec(bin)
		if err := c.files.start(p); err != nil {
			return err
		}
		if step.ready == nil {
			continue
		}
		if err := c.files.poll(ctx, p.name, 90*time.Second, step.ready); err != nil {
			return err
		}
	}
	return nil
}

func etcdReady(ctx context.Context) error {
	request, err := http.NewRequestWithContext(ctx, http.MethodGet, etcdURL+"/health", nil)
	if err != nil {
		return err
	}
	response, err := http.DefaultClient.Do(request)
	if err != nil {
		return err
	}
	defer response.Body.Close()
	if response.StatusCode != http.StatusOK {
		return fmt.Errorf("health is %s", response.Status)
	}
	return nil
}

// apiReady uses a client of its own each time: the certificates are made while
// the cluster starts.
func (c *Cluster) apiReady(ctx context.Context) error {
	api, err := c.files.newAPIClient("admin")
	if err != nil {
		return err
	}
	defer api.close()
	return api.get(ctx, "/readyz", nil)
}
