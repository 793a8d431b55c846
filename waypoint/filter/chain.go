package filter

import (
	"fmt"
	"strings"

	"github.com/towpath-mesh/towpath/internal/routing"
	"github.com/towpath-mesh/towpath/internal/wire"
)

// Chain is the filters of a rule or of a backend, ready to run. It is
// immutable; nil is a chain of no filters.
type Chain struct {
	steps []step
	// Mirrors are the chain's mirror filters, in order.
	mirrors []*routing.Mirror
}

// step is one filter. Request may answer the request itself; it returns what to
// do with the response, nil for nothing.
type step interface {
	request(req *wire.Request, in Input) (answer *wire.Response, finish finisher)
}

// finisher changes the response of one request.
type finisher func(*wire.Response)

// Input is what filters need to know beside the request.
type Input struct {
	// Prefix is the path prefix that the rule matched; empty when it matched by
	// other means.
	Prefix string
	// Port is that of the listener, for redirects.
	Port uint16
}

// Run is the state of one request in a chain.
type Run struct {
	// Answer, when set, is the response: the request goes nowhere.
	Answer *wire.Response
	// Reason says in a few constant words why there is an Answer.
	Reason string

	finish []finisher
}

// Compile prepares the filters.
func Compile(filters []routing.Filter) (*Chain, error) {
	if len(filters) == 0 {
		return nil, nil
	}
	c := &Chain{}
	for i, f := range filters {
		if f.Mirror != nil && f.Invalid == "" {
			c.mirrors = append(c.mirrors, f.Mirror)
			continue
		}
		s, err := compile(f)
		if err != nil {
			return nil, fmt.Errorf("filter %d: %w", i, err)
		}
		c.steps = append(c.steps, s)
	}
	return c, nil
}

func compile(f routing.Filter) (step, error) {
	switch {
	case f.Invalid != "":
		return invalid{}, nil
	case f.RequestHeaders != nil:
		return newRequestHeaders(f.RequestHeaders)
	case f.ResponseHeaders != nil:
		return newResponseHeaders(f.ResponseHeaders)
	case f.Redirect != nil:
		return newRedirect(f.Redirect)
	case f.Rewrite != nil:
		return newRewrite(f.Rewrite)
	case f.CORS != nil:
		return newCORS(f.CORS), nil
	}
	return nil, fmt.Errorf("filter of no kind")
}

// Mirrors returns where copies of requests go.
func (c *Chain) Mirrors() []*routing.Mirror {
	if c == nil {
		return nil
	}
	return c.mirrors
}

// Redirects reports whether the chain answers every request with a redirect.
func (c *Chain) Redirects() bool {
	if c == nil {
		return false
	}
	for _, s := range c.steps {
		if _, ok := s.(*redirect); ok {
			return true
		}
	}
	return false
}

// Request runs the filters over the request, in order, until one answers.
func (c *Chain) Request(req *wire.Request, in Input) Run {
	var run Run
	if c == nil {
		return run
	}
	for _, s := range c.steps {
		answer, finish := s.request(req, in)
		if finish != nil {
			run.finish = append(run.finish, finish)
		}
		if answer != nil {
			run.Answer, run.Reason = answer, reasonOf(s)
			return run
		}
	}
	return run
}

// Response runs what the filters have to do with the response.
func (r *Run) Response(resp *wire.Response) {
	for _, f := range r.finish {
		f(resp)
	}
}

// Reasons why a filter answered.
const (
	ReasonInvalid  = "filter cannot be applied"
	ReasonRedirect = "redirect"
	ReasonCORS     = "CORS preflight"
)

func reasonOf(s step) string {
	switch s.(type) {
	case invalid:
		return ReasonInvalid
	case *redirect:
		return ReasonRedirect
	}
	return ReasonCORS
}

// invalid answers for a filter that cannot be applied: the request must not
// pass without it (HTTPRouteFilter.ExtensionRef: "MUST NOT be skipped").
type invalid struct{}

func (invalid) request(*wire.Request, Input) (*wire.Response, finisher) {
	return &wire.Response{Status: 500}, nil
}

// checkHeaders refuses fields that could not be sent.
func checkHeaders(list []routing.Header) error {
	for _, h := range list {
		if !wire.ValidField(h.Name, h.Value) {
			return fmt.Errorf("invalid header field %q", h.Name)
		}
	}
	return nil
}

func lowerAll(list []string) []string {
	out := make([]string, len(list))
	for i, s := range list {
		out[i] = strings.ToLower(s)
	}
	return out
}
