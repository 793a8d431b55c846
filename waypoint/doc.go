// Package waypoint is the L7 proxy of a namespace. Tunnels come in at its HBONE
// door; their authority, never a Host header, says which Service they are for;
// and each HTTP request runs through one visible sequence: see
// (*connection).handle.
//
// It gets everything it knows from the two vocabularies, package mesh and
// package routing. It may not know Kubernetes, and nothing in it imports
// net/http: that is for package wire.
package waypoint
