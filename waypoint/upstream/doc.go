// Package upstream carries a request to a backend: which backend by weight,
// which of its endpoints, over which connection, and what is tried again.
//
// It knows the mesh, backends and messages. It may not know rules, filters,
// telemetry or net/http: attempts are told to an observer.
package upstream
