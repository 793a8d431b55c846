// Package match finds the rule for a request. Rules are compiled once, when
// their table arrives; a look-up is then a walk along the path, not along the
// rules.
//
// It is pure: no context, clock, goroutine or logger, and no knowledge of
// filters, backends or the mesh.
package match
