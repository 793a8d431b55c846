package provision

import (
	"crypto/sha256"
	"encoding/hex"
	"maps"

	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	policyv1 "k8s.io/api/policy/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/util/intstr"
	"k8s.io/apimachinery/pkg/util/validation"
	gwv1 "sigs.k8s.io/gateway-api/apis/v1"

	"github.com/towpath-mesh/towpath/internal/mesh"
)

// Options are the same for all proxies of an installation.
type Options struct {
	// Image holds the proxy as /usr/local/bin/waypoint.
	Image string
	// ControllerAddress is host:port of the controller's config stream.
	ControllerAddress string
	TrustDomain       string
	ClusterDomain     string
	// OTLPEndpoint receives traces, empty for none; TraceSampling is the share
	// of new traces that are kept, 0 to 1.
	OTLPEndpoint  string
	TraceSampling float64
	// Replicas of each proxy; 1 when 0.
	Replicas int32
}

// Objects run the proxy of one Gateway. They carry kind and apiVersion, ready
// for a server-side apply.
type Objects struct {
	ServiceAccount *corev1.ServiceAccount
	Service        *corev1.Service
	Deployment     *appsv1.Deployment
	Budget         *policyv1.PodDisruptionBudget
}

// Values that label, name or number what is made.
const (
	labelName = "app.kubernetes.io/name"
	nameValue = "towpath-waypoint"
	managed   = "true"
	// RootConfigMap holds the trust bundle in every namespace with a proxy.
	RootConfigMap = "towpath-ca-root"
	// appProtocol of the tunnel port: opaque to every mesh.
	appProtocolHBONE = "towpath.io/hbone"
)

// Name returns the name of the objects of a Gateway: its own where a Service can
// carry it (a DNS label that begins with a letter), else one made of its
// beginning and a hash. A waypoint is accepted with a name of the first kind
// only.
func Name(gateway string) string {
	if len(validation.IsDNS1035Label(gateway)) == 0 {
		return gateway
	}
	sum := sha256.Sum256([]byte(gateway))
	head := make([]byte, 0, 48)
	for i := 0; i < len(gateway) && len(head) < 48; i++ {
		c := gateway[i]
		if c == '.' {
			c = '-'
		}
		head = append(head, c)
	}
	return "gw-" + string(head) + "-" + hex.EncodeToString(sum[:5])
}

// Waypoint returns the objects that run the proxy of a waypoint Gateway.
func Waypoint(gw *gwv1.Gateway, o Options) Objects {
	m := maker{gateway: gw, options: o, name: Name(gw.Name)}
	return Objects{
		ServiceAccount: m.serviceAccount(),
		Service:        m.service(),
		Deployment:     m.deployment(),
		Budget:         m.budget(),
	}
}

// Gateway returns the waypoint that the controller makes itself, because of
// reason.
func Gateway(key mesh.ProxyKey, reason string) *gwv1.Gateway {
	return &gwv1.Gateway{
		TypeMeta: metav1.TypeMeta{APIVersion: gwv1.GroupVersion.String(), Kind: "Gateway"},
		ObjectMeta: metav1.ObjectMeta{
			Namespace: key.Namespace, Name: key.Name,
			Labels:      map[string]string{mesh.LabelManaged: managed},
			Annotations: map[string]string{AnnotationReason: reason},
		},
		Spec: gwv1.GatewaySpec{
			GatewayClassName: mesh.ClassWaypoint,
			Listeners:        []gwv1.Listener{{Name: "mesh", Port: mesh.PortHBONE, Protocol: mesh.ProtocolHBONE}},
		},
	}
}

// AnnotationReason on a Gateway that the controller made says what needed it
// first.
const AnnotationReason = "towpath.io/made-for"

// maker makes the objects of one Gateway.
type maker struct {
	gateway *gwv1.Gateway
	options Options
	name    string
}

// meta gives every object the Gateway's infrastructure labels and annotations
// (GatewayInfrastructure); ours win.
func (m maker) meta() metav1.ObjectMeta {
	labels, annotations := map[string]string{}, map[string]string{}
	if i := m.gateway.Spec.Infrastructure; i != nil {
		for k, v := range i.Labels {
			labels[string(k)] = string(v)
		}
		for k, v := range i.Annotations {
			annotations[string(k)] = string(v)
		}
	}
	maps.Copy(labels, m.selector())
	labels[mesh.LabelManaged] = managed
	labels[labelName] = nameValue
	return metav1.ObjectMeta{
		Namespace: m.gateway.Namespace, Name: m.name, Labels: labels, Annotations: annotations,
		OwnerReferences: []metav1.OwnerReference{{
			APIVersion: gwv1.GroupVersion.String(), Kind: "Gateway", Name: m.gateway.Name, UID: m.gateway.UID,
			Controller: ptr(true),
		}},
	}
}

func (m maker) selector() map[string]string {
	return map[string]string{mesh.LabelGatewayName: m.name}
}

func (m maker) serviceAccount() *corev1.ServiceAccount {
	return &corev1.ServiceAccount{
		TypeMeta:                     metav1.TypeMeta{APIVersion: "v1", Kind: "ServiceAccount"},
		ObjectMeta:                   m.meta(),
		AutomountServiceAccountToken: ptr(false),
	}
}

func (m maker) service() *corev1.Service {
	return &corev1.Service{
		TypeMeta:   metav1.TypeMeta{APIVersion: "v1", Kind: "Service"},
		ObjectMeta: m.meta(),
		Spec: corev1.ServiceSpec{
			Type:           corev1.ServiceTypeClusterIP,
			Selector:       m.selector(),
			IPFamilyPolicy: ptr(corev1.IPFamilyPolicyPreferDualStack),
			Ports: []corev1.ServicePort{{
				Name: "hbone", Port: mesh.PortHBONE, TargetPort: intstr.FromInt32(mesh.PortHBONE),
				Protocol: corev1.ProtocolTCP, AppProtocol: ptr(appProtocolHBONE),
			}},
		},
	}
}

func (m maker) budget() *policyv1.PodDisruptionBudget {
	return &policyv1.PodDisruptionBudget{
		TypeMeta:   metav1.TypeMeta{APIVersion: policyv1.SchemeGroupVersion.String(), Kind: "PodDisruptionBudget"},
		ObjectMeta: m.meta(),
		Spec: policyv1.PodDisruptionBudgetSpec{
			MaxUnavailable: ptr(intstr.FromInt32(1)),
			Selector:       &metav1.LabelSelector{MatchLabels: m.selector()},
		},
	}
}

func ptr[T any](v T) *T { return &v }
