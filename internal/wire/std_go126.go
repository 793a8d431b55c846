//go:build !go1.27

package wire

import "net/http"

// limitValues does nothing: this release of Go has no such limit; MaxFields is
// checked when the head has been read.
func limitValues(*http.Server) {}
