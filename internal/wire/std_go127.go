//go:build go1.27

package wire

import "net/http"

// limitValues bounds the number of header values while they are read: a small
// HTTP/2 frame can name many.
func limitValues(s *http.Server) { s.MaxHeaderValueCount = MaxFields }
