package routing

import (
	"testing"
	"time"

	"github.com/towpath-mesh/towpath/internal/mesh"
)

func TestTableString(t *testing.T) {
	table := &Table{
		Key: TableKey{
			Proxy:  mesh.ProxyKey{Namespace: "edge", Name: "front"},
			Parent: Parent{Kind: ParentGateway, Namespace: "edge", Name: "front"},
		},
		ClientNamespace: "crm",
		Listeners: []Listener{{Port: 80, Routed: true, Rules: []Rule{{
			ID:        RuleID{Kind: KindGRPCRoute, Namespace: "shop", Name: "api", Index: 2, Section: "get"},
			Hostnames: []string{"a.example.com", "*.example.com"},
			Matches:   []Match{{Path: PathMatch{Kind: PathExact, Value: "/a"}, Method: "GET", Headers: []ValueMatch{{Name: "h", Value: "v"}}}},
			Filters:   []Filter{{Rewrite: &Rewrite{Path: &PathChange{Value: "/x"}}}, {}},
			Backends:  []Backend{{Service: mesh.ServiceKey{Namespace: "shop", Name: "api"}, Port: 90, Weight: 3, H2C: true}},
			Timeouts:  Timeouts{Request: time.Second},
			Retry:     &Retry{Attempts: 2, Codes: []int{503}},
		}}}, {Port: 81, Protocol: ProtocolTCP}},
	}
	want := `table edge/front for Gateway edge/front clients crm
  port 80 HTTP routed
    GRPCRoute shop/api[2] "get"
      hostnames a.example.com *.example.com
      match path=/a, method=GET, header h=v
      rewrite path "/x"
      nothing
      backend shop/api:90 weight 3 h2c
      timeouts request 1s backend-request 0s
      retry 2 backoff 0s codes [503]
  port 81 TCP passes through
`
	if got := table.String(); got != want {
		t.Errorf("got\n%s\nwant\n%s", got, want)
	}
}
