package configstream

import (
	"net/url"
	"strings"

	"github.com/towpath-mesh/towpath/internal/routing"
)

// kind is a resource type. The order is the one in which new resources are
// sent, so that a route never comes before the endpoints it leads to.
type kind uint8

const (
	kindWorkload kind = iota
	kindSlice
	kindService
	kindTable
	kindCount
)

const typePrefix = "type.googleapis.com/towpath.config.v1."

var kindNames = [kindCount]string{"Workload", "EndpointSlice", "Service", "Table"}

func (k kind) String() string  { return kindNames[k] }
func (k kind) typeURL() string { return typePrefix + kindNames[k] }

func kindOf(typeURL string) (kind, bool) {
	for k, name := range kindNames {
		if typeURL == typePrefix+name {
			return kind(k), true
		}
	}
	return 0, false
}

// kindsOf returns what a client of that role subscribes to, in sending order.
func kindsOf(r Role) []kind {
	switch r {
	case RoleZTunnel:
		return []kind{kindWorkload, kindSlice, kindService}
	case RoleProxy:
		return []kind{kindWorkload, kindSlice, kindService, kindTable}
	default:
		return []kind{kindWorkload}
	}
}

// name makes a resource name of its parts. Different parts give different
// names; nobody takes a name apart again.
func name(parts ...string) string {
	for i, p := range parts {
		if strings.ContainsAny(p, "/%") {
			parts[i] = url.PathEscape(p)
		}
	}
	return strings.Join(parts, "/")
}

func tableName(k routing.TableKey) string {
	kind := "service"
	if k.Parent.Kind == routing.ParentGateway {
		kind = "gateway"
	}
	return name(k.Proxy.Namespace, k.Proxy.Name, kind, k.Parent.Namespace, k.Parent.Name)
}
