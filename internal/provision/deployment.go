package provision

import (
	"maps"
	"strconv"

	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/resource"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/util/intstr"

	"github.com/towpath-mesh/towpath/internal/mesh"
)

const (
	// user is nobody's in particular; the image has no user database.
	user = 65532
	// gracePeriod bounds the drain of established connections, in seconds.
	gracePeriod = 45
	// tokenLifetime in seconds; the kubelet renews at 80 %.
	tokenLifetime = 3600

	rootDir   = "/var/run/towpath/root"
	rootFile  = "root-cert.pem"
	tokenDir  = "/var/run/towpath/token"
	tokenFile = "token"
)

func (m maker) deployment() *appsv1.Deployment {
	replicas := max(m.options.Replicas, 1)
	return &appsv1.Deployment{
		TypeMeta:   metav1.TypeMeta{APIVersion: appsv1.SchemeGroupVersion.String(), Kind: "Deployment"},
		ObjectMeta: m.meta(),
		Spec: appsv1.DeploymentSpec{
			Replicas: &replicas,
			Selector: &metav1.LabelSelector{MatchLabels: m.selector()},
			Strategy: appsv1.DeploymentStrategy{
				Type: appsv1.RollingUpdateDeploymentStrategyType,
				RollingUpdate: &appsv1.RollingUpdateDeployment{
					MaxSurge: ptr(intstr.FromInt32(1)), MaxUnavailable: ptr(intstr.FromInt32(0)),
				},
			},
			Template: corev1.PodTemplateSpec{ObjectMeta: m.podMeta(), Spec: m.podSpec()},
		},
	}
}

func (m maker) podMeta() metav1.ObjectMeta {
	all := m.meta()
	annotations := map[string]string{
		"prometheus.io/scrape": "true",
		"prometheus.io/path":   "/metrics",
		"prometheus.io/port":   strconv.Itoa(mesh.PortMetrics),
	}
	maps.Copy(annotations, all.Annotations) // the user may scrape otherwise
	return metav1.ObjectMeta{Labels: all.Labels, Annotations: annotations}
}

// podSpec keeps to the Restricted level of the Pod Security Standards.
func (m maker) podSpec() corev1.PodSpec {
	return corev1.PodSpec{
		ServiceAccountName:            m.name,
		AutomountServiceAccountToken:  ptr(false),
		TerminationGracePeriodSeconds: ptr(int64(gracePeriod)),
		SecurityContext: &corev1.PodSecurityContext{
			RunAsNonRoot: ptr(true), RunAsUser: ptr(int64(user)), RunAsGroup: ptr(int64(user)), FSGroup: ptr(int64(user)),
			SeccompProfile: &corev1.SeccompProfile{Type: corev1.SeccompProfileTypeRuntimeDefault},
		},
		TopologySpreadConstraints: []corev1.TopologySpreadConstraint{{
			MaxSkew: 1, TopologyKey: corev1.LabelHostname, WhenUnsatisfiable: corev1.ScheduleAnyway,
			LabelSelector: &metav1.LabelSelector{MatchLabels: m.selector()},
		}},
		Containers: []corev1.Container{m.container()},
		Volumes:    volumes(),
	}
}

func (m maker) container() corev1.Container {
	return corev1.Container{
		Name: "waypoint", Image: m.options.Image, ImagePullPolicy: corev1.PullIfNotPresent,
		Command: []string{"/usr/local/bin/waypoint"},
		Args:    m.args(),
		Env: []corev1.EnvVar{
			fieldEnv("POD_NAME", "metadata.name"),
			fieldEnv("POD_NAMESPACE", "metadata.namespace"),
			fieldEnv("POD_UID", "metadata.uid"),
			fieldEnv("NODE_NAME", "spec.nodeName"),
		},
		Ports: []corev1.ContainerPort{
			{Name: "hbone", ContainerPort: mesh.PortHBONE, Protocol: corev1.ProtocolTCP},
			{Name: "metrics", ContainerPort: mesh.PortMetrics, Protocol: corev1.ProtocolTCP},
			{Name: "ready", ContainerPort: mesh.PortReady, Protocol: corev1.ProtocolTCP},
		},
		Resources: corev1.ResourceRequirements{Requests: corev1.ResourceList{
			corev1.ResourceCPU: resource.MustParse("50m"), corev1.ResourceMemory: resource.MustParse("64Mi"),
		}},
		ReadinessProbe: &corev1.Probe{
			ProbeHandler:  corev1.ProbeHandler{HTTPGet: &corev1.HTTPGetAction{Path: "/healthz/ready", Port: intstr.FromInt32(mesh.PortReady), Scheme: corev1.URISchemeHTTP}},
			PeriodSeconds: 2, TimeoutSeconds: 2, SuccessThreshold: 1, FailureThreshold: 3,
		},
		// Alive is not ready: a proxy without a controller waits, and is not to be
		// restarted for it.
		LivenessProbe: &corev1.Probe{
			ProbeHandler:  corev1.ProbeHandler{TCPSocket: &corev1.TCPSocketAction{Port: intstr.FromInt32(mesh.PortReady)}},
			PeriodSeconds: 10, TimeoutSeconds: 5, SuccessThreshold: 1, FailureThreshold: 6,
		},
		SecurityContext: &corev1.SecurityContext{
			AllowPrivilegeEscalation: ptr(false), ReadOnlyRootFilesystem: ptr(true), RunAsNonRoot: ptr(true), Privileged: ptr(false),
			Capabilities: &corev1.Capabilities{Drop: []corev1.Capability{"ALL"}},
		},
		VolumeMounts: []corev1.VolumeMount{
			{Name: "root", MountPath: rootDir, ReadOnly: true},
			{Name: "token", MountPath: tokenDir, ReadOnly: true},
		},
	}
}

func (m maker) args() []string {
	o := m.options
	return []string{
		"--controller-address=" + o.ControllerAddress,
		"--trust-domain=" + o.TrustDomain,
		"--cluster-domain=" + o.ClusterDomain,
		"--root-cert=" + rootDir + "/" + rootFile,
		"--token=" + tokenDir + "/" + tokenFile,
		"--otlp-endpoint=" + o.OTLPEndpoint,
		"--trace-sampling=" + strconv.FormatFloat(o.TraceSampling, 'g', -1, 64),
		"--gateway-namespace=" + m.gateway.Namespace,
		"--gateway-name=" + m.gateway.Name,
	}
}

func fieldEnv(name, path string) corev1.EnvVar {
	return corev1.EnvVar{Name: name, ValueFrom: &corev1.EnvVarSource{
		FieldRef: &corev1.ObjectFieldSelector{APIVersion: "v1", FieldPath: path},
	}}
}

func volumes() []corev1.Volume {
	return []corev1.Volume{
		{Name: "root", VolumeSource: corev1.VolumeSource{ConfigMap: &corev1.ConfigMapVolumeSource{
			LocalObjectReference: corev1.LocalObjectReference{Name: RootConfigMap}, DefaultMode: ptr(int32(0o444)),
		}}},
		{Name: "token", VolumeSource: corev1.VolumeSource{Projected: &corev1.ProjectedVolumeSource{
			DefaultMode: ptr(int32(0o440)),
			Sources: []corev1.VolumeProjection{{ServiceAccountToken: &corev1.ServiceAccountTokenProjection{
				Audience: mesh.TokenAudience, ExpirationSeconds: ptr(int64(tokenLifetime)), Path: tokenFile,
			}}},
		}}},
	}
}
