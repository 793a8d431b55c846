package registry

import (
	"fmt"
	"net/netip"
	"reflect"
	"strings"

	"github.com/spiffe/go-spiffe/v2/spiffeid"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"

	"github.com/towpath-mesh/towpath/identity"
	"github.com/towpath-mesh/towpath/internal/mesh"
)

// PodInfo is what the certificate authority and the status need to know of a
// Pod.
type PodInfo struct {
	ID                              mesh.WorkloadID
	Namespace, Name, ServiceAccount string
	Node                            string
	Phase                           corev1.PodPhase
	// Mirror is set for a static pod's image in the API, which anybody with a
	// file on the node can make, with any service account.
	Mirror      bool
	HostNetwork bool
	Terminating bool
	// Enrolled says that the pod is to be in the mesh, Captured that the node
	// agent has reported it so.
	Enrolled, Captured bool
	// Gateway is the Gateway whose proxy the pod is; the zero key for others.
	Gateway mesh.ProxyKey
}

// Finished reports whether the pod has run to its end.
func (p PodInfo) Finished() bool {
	return p.Phase == corev1.PodSucceeded || p.Phase == corev1.PodFailed
}

// pod is a Pod as last seen and as last told.
type pod struct {
	info PodInfo
	// label is the value of mesh.LabelMesh.
	label string
	// base is the workload but for what the Namespace decides: Enrolled and
	// Tunnel.
	base mesh.Workload
	// told is nil before the first time and once the pod has finished.
	told *mesh.Workload
}

// namespace is what a Namespace decides about its pods.
type namespace struct {
	enrolled bool
	pods     map[types.NamespacedName]*pod
}

func (x *Index) namespace(name string) *namespace {
	ns := x.namespaces[name]
	if ns == nil {
		ns = &namespace{pods: map[types.NamespacedName]*pod{}}
		x.namespaces[name] = ns
	}
	return ns
}

// relabel sets the value of a Namespace's label and says which workloads change
// by it.
func (x *Index) relabel(name, label string) mesh.Update {
	enrolled, wrong := mesh.EnrolsNamespace(name, x.options.SystemNamespace, label)
	x.note(objectRef{kind: "Namespace", name: name}, wrong)
	ns := x.namespace(name)
	var u mesh.Update
	if ns.enrolled == enrolled {
		return u
	}
	ns.enrolled = enrolled
	for _, p := range ns.pods {
		x.emitPod(p, &u)
	}
	return u
}

func (x *Index) keepPod(key types.NamespacedName, obj *corev1.Pod, u *mesh.Update) {
	p := x.pods[key]
	if p == nil {
		p = &pod{}
		x.pods[key] = p
		x.namespace(key.Namespace).pods[key] = p
	}
	x.unlink(p)
	p.info, p.label = infoOf(obj), obj.Labels[mesh.LabelMesh]
	p.base = x.workloadOf(obj, p.info)
	x.link(p)
	x.emitPod(p, u)
}

func (x *Index) dropPod(key types.NamespacedName, u *mesh.Update) {
	p := x.pods[key]
	if p == nil {
		return
	}
	x.unlink(p)
	delete(x.pods, key)
	ns := x.namespace(key.Namespace)
	delete(ns.pods, key)
	x.note(objectRef{"Pod", key.Namespace, key.Name}, "")
	if p.told != nil {
		u.RemovedWorkloads = append(u.RemovedWorkloads, p.told.ID)
	}
}

func (x *Index) link(p *pod) {
	x.byUID[p.info.ID] = p
	if p.info.Node == "" {
		return
	}
	if x.byNode[p.info.Node] == nil {
		x.byNode[p.info.Node] = map[mesh.WorkloadID]*pod{}
	}
	x.byNode[p.info.Node][p.info.ID] = p
}

func (x *Index) unlink(p *pod) {
	delete(x.byUID, p.info.ID)
	delete(x.byNode[p.info.Node], p.info.ID)
	if len(x.byNode[p.info.Node]) == 0 {
		delete(x.byNode, p.info.Node)
	}
}

// emitPod brings what was told of a pod up to date.
func (x *Index) emitPod(p *pod, u *mesh.Update) {
	inNamespace := x.namespace(p.info.Namespace).enrolled
	enrolled, wrong := enrols(p, inNamespace)
	x.note(objectRef{"Pod", p.info.Namespace, p.info.Name}, wrong)
	p.info.Enrolled = enrolled
	if p.info.Finished() {
		if p.told != nil {
			u.RemovedWorkloads = append(u.RemovedWorkloads, p.told.ID)
			p.told = nil
		}
		return
	}
	next := p.base
	next.Enrolled = enrolled
	if (enrolled && p.info.Captured) || !p.info.Gateway.IsZero() {
		next.Tunnel = mesh.TunnelHBONE
	}
	if p.told != nil && reflect.DeepEqual(*p.told, next) {
		return
	}
	p.told = &next
	u.Workloads = append(u.Workloads, p.told)
}

// enrols reports whether a pod is to be in the mesh, and why its own label, if
// it has one, does not do what it says.
func enrols(p *pod, inNamespace bool) (enrolled bool, wrong string) {
	switch p.label {
	case "", mesh.MeshDisabled:
	case mesh.MeshEnabled:
		if !inNamespace {
			wrong = fmt.Sprintf("a pod is not enrolled by itself: label its namespace %s=%s", mesh.LabelMesh, mesh.MeshEnabled)
		}
	default:
		wrong = fmt.Sprintf("%q is not %q: treated as not set", p.label, mesh.MeshDisabled)
	}
	enrolled = inNamespace && p.label != mesh.MeshDisabled && !p.info.HostNetwork && p.info.Gateway.IsZero() && !p.info.Finished()
	return enrolled, wrong
}

func infoOf(p *corev1.Pod) PodInfo {
	account := p.Spec.ServiceAccountName
	if account == "" {
		account = "default"
	}
	_, mirror := p.Annotations[corev1.MirrorPodAnnotationKey]
	info := PodInfo{
		ID: mesh.WorkloadID(p.UID), Namespace: p.Namespace, Name: p.Name, ServiceAccount: account,
		Node: p.Spec.NodeName, Phase: p.Status.Phase, Mirror: mirror, HostNetwork: p.Spec.HostNetwork,
		Terminating: p.DeletionTimestamp != nil, Captured: isCaptured(p),
	}
	// A proxy's service account is its own. Without this a label alone would
	// make any pod one.
	name := p.Labels[mesh.LabelGatewayName]
	if _, managed := p.Labels[mesh.LabelManaged]; managed && name != "" && name == account && !info.HostNetwork {
		info.Gateway = mesh.ProxyKey{Namespace: p.Namespace, Name: name}
	}
	return info
}

func isCaptured(p *corev1.Pod) bool {
	for _, c := range p.Status.Conditions {
		if c.Type == mesh.ConditionEnrolled {
			return c.Status == corev1.ConditionTrue
		}
	}
	return false
}

func (x *Index) workloadOf(p *corev1.Pod, info PodInfo) mesh.Workload {
	w := mesh.Workload{
		ID: info.ID, Namespace: info.Namespace, Name: info.Name, ServiceAccount: info.ServiceAccount,
		Node: info.Node, HostNetwork: info.HostNetwork, Gateway: info.Gateway, Terminating: info.Terminating,
		App:     firstOf(p.Labels, "app.kubernetes.io/name", "app"),
		Version: firstOf(p.Labels, "app.kubernetes.io/version", "version"),
	}
	w.OwnerKind, w.OwnerName = ownerOf(p)
	if info.HostNetwork {
		return w
	}
	w.Identity = x.identityOf(info)
	w.Addresses = podAddresses(p)
	return w
}

// identityOf returns the zero ID for names that cannot stand in a SPIFFE ID; the
// API server lets no such pass.
func (x *Index) identityOf(info PodInfo) spiffeid.ID {
	id, err := identity.ForServiceAccount(x.options.TrustDomain, info.Namespace, info.ServiceAccount)
	if err != nil {
		return spiffeid.ID{}
	}
	return id
}

func podAddresses(p *corev1.Pod) []netip.Addr {
	var out []netip.Addr
	for _, ip := range p.Status.PodIPs {
		if a, err := netip.ParseAddr(ip.IP); err == nil {
			out = append(out, a.Unmap())
		}
	}
	return out
}

// ownerOf names the controller that made the pod, the Deployment behind a
// ReplicaSet included: its ReplicaSets carry its name and the template's hash.
func ownerOf(p *corev1.Pod) (kind, name string) {
	owner := metav1.GetControllerOf(p)
	if owner == nil {
		return "Pod", p.Name
	}
	hash := p.Labels["pod-template-hash"]
	if owner.Kind == "ReplicaSet" && hash != "" {
		if deployment, ok := strings.CutSuffix(owner.Name, "-"+hash); ok {
			return "Deployment", deployment
		}
	}
	return owner.Kind, owner.Name
}

func firstOf(labels map[string]string, keys ...string) string {
	for _, k := range keys {
		if v := labels[k]; v != "" {
			return v
		}
	}
	return ""
}
