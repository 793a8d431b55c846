// Package filter changes requests and responses the way a rule says, or answers
// a request itself. Filters are compiled into a Chain when their table arrives.
//
// It is pure: no context, clock, goroutine or logger. A mirror is only
// described; the pipeline carries it out.
package filter
