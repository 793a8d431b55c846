package ztunnel

import (
	"net/url"
	"strings"

	"github.com/towpath-mesh/towpath/internal/mesh"
)

// baggage describes a workload to the other end of a tunnel, in W3C Baggage with
// the names that the ambient family uses.
func baggage(wl *mesh.Workload) string {
	var b strings.Builder
	add := func(key, value string) {
		if value == "" {
			return
		}
		if b.Len() > 0 {
			b.WriteByte(',')
		}
		b.WriteString(key + "=" + url.PathEscape(value))
	}
	add("k8s.namespace.name", wl.Namespace)
	switch wl.OwnerKind {
	case "Deployment", "CronJob", "Job":
		add("k8s."+strings.ToLower(wl.OwnerKind)+".name", wl.OwnerName)
	default:
		add("k8s.pod.name", wl.Name)
	}
	add("service.name", wl.App)
	add("service.version", wl.Version)
	return b.String()
}
