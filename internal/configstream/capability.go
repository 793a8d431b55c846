package configstream

import (
	"slices"

	"github.com/towpath-mesh/towpath/internal/routing"
)

// A protobuf client ignores a field that it does not know. Where the field
// narrows what its resource allows or whom it is meant for, ignoring it does
// harm: the client would apply the rest to everybody. Such a field gets a
// capability here. Clients state what they know; a resource that needs more is
// withheld from them whole, and ProxyStatus says so.
const (
	// capClientNamespace: Table.client_namespace limits whose requests the
	// table is for.
	capClientNamespace = "table.client_namespace"
)

// capabilities are those of this program's client.
var capabilities = []string{capClientNamespace}

// needsOf returns the capabilities without which a table must not be sent.
func needsOf(t *routing.Table) []string {
	if t.ClientNamespace != "" {
		return []string{capClientNamespace}
	}
	return nil
}

func hasAll(have, needs []string) bool {
	for _, n := range needs {
		if !slices.Contains(have, n) {
			return false
		}
	}
	return true
}
