// Package gatewayapi translates objects of Gateway API into routing tables and
// statuses. Translate is a function of its inputs: it reads no clock, keeps
// nothing and can be run as often as one likes.
//
// It goes in stages, not by kind of route: normalize gives every route one form,
// attach finds where each of its parentRefs hangs, build turns its rules into
// routing rules (once, wherever it hangs), and tables and statuses are collected
// from the attachments. What a kind or a parent has of its own is in the first
// two stages.
//
// It knows the types of the Kubernetes and Gateway APIs. It may not know
// clients, informers, events, clocks or loggers.
package gatewayapi
