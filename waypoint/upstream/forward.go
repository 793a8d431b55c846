package upstream

import (
	"context"
	"errors"
	"io"
	"math/rand/v2"
	"net"
	"net/netip"
	"slices"
	"time"

	"github.com/towpath-mesh/towpath/internal/hbone"
	"github.com/towpath-mesh/towpath/internal/mesh"
	"github.com/towpath-mesh/towpath/internal/routing"
	"github.com/towpath-mesh/towpath/internal/wire"
)

const (
	// connectTries bounds the endpoints tried when connections fail before
	// anything was sent, whatever the rule says of retries.
	connectTries   = 3
	defaultBackoff = 25 * time.Millisecond
)

// Forwarder sends requests to backends.
type Forwarder struct {
	Balancer  *Balancer
	Connector *Connector
	Client    wire.Client
}

// Call is one request to one backend.
type Call struct {
	Request  *wire.Request
	Service  mesh.ServiceKey
	Port     uint16
	H2C      bool
	From     Source
	Timeouts routing.Timeouts
	Retry    *routing.Retry
	Observer Observer
	// OnInform passes on interim responses; optional.
	OnInform func(status int, h *wire.Header)
}

// Observer is told of attempts. It may change the header of the request before
// each.
type Observer interface {
	// Begin is called before an attempt, numbered from 0. The context it
	// returns is used for the attempt; traceparent goes into the CONNECT of a
	// tunnel that is opened for it.
	Begin(ctx context.Context, n int, to mesh.Target) (attempt context.Context, traceparent string)
	// Connected tells which connection the attempt uses.
	Connected(ctx context.Context, conn net.Conn, reused bool)
	// End is called after the attempt with its status or why it failed: for the
	// one whose response is used, when that was sent.
	End(ctx context.Context, status int, err error)
}

// Result is how a call ended.
type Result struct {
	// Response is the backend's, nil when there is none; Failure then says what
	// to answer instead.
	Response *wire.Response
	Failure  *Failure
	// Endpoint is the one tried last; invalid if none was.
	Endpoint netip.AddrPort
	Attempts int

	end func(error)
}

// Done must be called when the response has been sent or given up; err is why
// the client did not get all of it.
func (r *Result) Done(err error) {
	if r.end != nil {
		r.end(err)
		r.end = nil
	}
}

// Failure is why no backend has answered.
type Failure struct {
	Status int
	Reason string // a few constant words
	Err    error  // may be nil
}

// Reasons of failures.
const (
	ReasonNoService  = "backend does not exist"
	ReasonNoEndpoint = "no ready endpoint"
	ReasonConnect    = "cannot connect to the endpoint"
	ReasonDenied     = "connection denied by the endpoint"
	ReasonReset      = "endpoint gave no response"
	ReasonTimeout    = "request timeout"
	ReasonTryTimeout = "backend request timeout"
	ReasonGone       = "client went away"
)

var (
	errTimeout    = errors.New(ReasonTimeout)
	errTryTimeout = errors.New(ReasonTryTimeout)
)

// call is the state of a Call under way.
type call struct {
	Call
	f     *Forwarder
	body  *replay
	tried []netip.AddrPort
	limit *limit // of the whole call
}

// limit is a context with a time limit and its own reason.
type limit struct {
	ctx    context.Context
	cancel context.CancelCauseFunc
	timer  *time.Timer
}

func newLimit(ctx context.Context, d time.Duration, why error) *limit {
	l := &limit{}
	l.ctx, l.cancel = context.WithCancelCause(ctx)
	if d > 0 {
		l.timer = time.AfterFunc(d, func() { l.cancel(why) })
	}
	return l
}

func (l *limit) end() {
	if l.timer != nil {
		l.timer.Stop()
	}
	l.cancel(nil)
}

// Forward sends the request. The caller sends the response on and calls Done in
// every case.
func (f *Forwarder) Forward(ctx context.Context, in Call) *Result {
	c := &call{Call: in, f: f, limit: newLimit(ctx, in.Timeouts.Request, errTimeout)}
	if in.Retry != nil && in.Request.Body != nil {
		c.body = newReplay(in.Request.Body)
		if !in.Request.ExpectContinue {
			c.body.fill(in.Request.ContentLength)
		}
	}
	res := c.run()
	if res.end == nil {
		c.limit.end()
	}
	return res
}

func (c *call) run() *Result {
	res := &Result{}
	connects := 0
	for n := 0; ; n++ {
		a := c.attempt(n, res)
		if a == nil {
			return res // no endpoint
		}
		res.Attempts++
		resp, err := a.do()
		again, wait := c.again(n, resp, err)
		if !again && connects < connectTries-1 && c.reconnect(err) {
			connects++
			again = true
		}
		if again {
			if err != nil {
				res.Failure = failureOf(c.limit.ctx, a.limit.ctx, err) // in case none is left
			}
			a.giveUp(resp, err)
			if wait == 0 || sleep(c.limit.ctx, wait) {
				continue
			}
			res.Failure = failureOf(c.limit.ctx, a.limit.ctx, context.Cause(c.limit.ctx))
			return res
		}
		if err != nil {
			res.Failure = failureOf(c.limit.ctx, a.limit.ctx, err)
			a.giveUp(nil, err)
			return res
		}
		res.Response, res.Failure = resp, nil
		res.end = a.done(resp)
		return res
	}
}

// again decides by the rule whether there is another attempt, and after which
// pause. A response is retried for its code; a failure is if the body can be
// sent again.
func (c *call) again(n int, resp *wire.Response, err error) (bool, time.Duration) {
	if c.Retry == nil || n >= c.Retry.Attempts || c.limit.ctx.Err() != nil || !c.body.possible() {
		return false, 0
	}
	if err == nil && !slices.Contains(c.Retry.Codes, resp.Status) {
		return false, 0
	}
	wait := c.Retry.Backoff
	if wait == 0 {
		wait = defaultBackoff
	}
	// The configured pause is the shortest allowed; the rest keeps clients of
	// one failure from returning together.
	return true, wait + rand.N(wait/4+1)
}

// reconnect tells failures that happened before anything was sent, which
// another endpoint may not have.
func (c *call) reconnect(err error) bool {
	var dial *wire.DialError
	return errors.As(err, &dial) && !errors.Is(err, hbone.ErrDenied) && c.limit.ctx.Err() == nil
}

func failureOf(all, one context.Context, err error) *Failure {
	var dial *wire.DialError
	var refused *wire.Refusal
	switch {
	case errors.As(err, &refused):
		return &Failure{Status: refused.Status, Reason: refused.Reason, Err: err}
	case errors.Is(context.Cause(all), errTimeout):
		return &Failure{Status: 504, Reason: ReasonTimeout, Err: errTimeout}
	case all.Err() != nil:
		return &Failure{Status: 499, Reason: ReasonGone, Err: context.Cause(all)}
	case errors.Is(context.Cause(one), errTryTimeout):
		return &Failure{Status: 504, Reason: ReasonTryTimeout, Err: errTryTimeout}
	case errors.Is(err, hbone.ErrDenied):
		return &Failure{Status: 503, Reason: ReasonDenied, Err: err}
	case errors.As(err, &dial):
		return &Failure{Status: 503, Reason: ReasonConnect, Err: err}
	}
	return &Failure{Status: 502, Reason: ReasonReset, Err: err}
}

func sleep(ctx context.Context, d time.Duration) bool {
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-ctx.Done():
		return false
	case <-t.C:
		return true
	}
}

// attempt is one try at one endpoint.
type attempt struct {
	c       *call
	target  mesh.Target
	release func()
	limit   *limit
	body    *attemptBody
	connect string // traceparent of the CONNECT
}

// attempt prepares try n, or says in res why there is none.
func (c *call) attempt(n int, res *Result) *attempt {
	target, release, ok := c.f.Balancer.PickFor(c.From.Address.Addr(), c.Service, c.Port, c.tried)
	if !ok {
		if res.Failure == nil {
			reason := ReasonNoEndpoint
			if !c.f.Balancer.Known(c.Service, c.Port) {
				reason = ReasonNoService
			}
			res.Failure = &Failure{Status: 503, Reason: reason}
		}
		return nil
	}
	c.tried = append(c.tried, target.Address)
	res.Endpoint = target.Address
	a := &attempt{c: c, target: target, release: release}
	ctx, traceparent := c.Observer.Begin(c.limit.ctx, n, target)
	a.limit, a.connect = newLimit(ctx, c.Timeouts.BackendRequest, errTryTimeout), traceparent
	if c.body != nil {
		a.body = c.body.attempt()
	}
	return a
}

func (a *attempt) do() (*wire.Response, error) {
	c := a.c
	req := *c.Request
	if a.body != nil {
		req.Body = a.body
	}
	return c.f.Client.Do(a.limit.ctx, &req, wire.Via{
		Pool: c.From.pool(a.target, c.H2C),
		H2C:  c.H2C,
		Dial: func(ctx context.Context) (net.Conn, error) {
			return c.f.Connector.Connect(ctx, a.target, c.From, a.connect)
		},
		OnConn:   func(conn net.Conn, reused bool) { c.Observer.Connected(a.limit.ctx, conn, reused) },
		OnInform: c.OnInform,
	})
}

// giveUp ends an attempt whose response, if any, is not used.
func (a *attempt) giveUp(resp *wire.Response, err error) {
	status := 0
	if resp != nil {
		status = resp.Status
		resp.Close()
	}
	a.end(status, err)
}

func (a *attempt) end(status int, err error) {
	if a.body != nil {
		a.body.Close() // returns the error of a body that nobody reads any more
	}
	a.c.Observer.End(a.limit.ctx, status, err)
	a.limit.end()
	a.release()
}

// done returns what ends the attempt and the call once the response was sent. A
// body cut by a timeout fails with that for its reason.
func (a *attempt) done(resp *wire.Response) func(error) {
	status := resp.Status
	if resp.Body != nil {
		resp.Body = &limitedBody{ReadCloser: resp.Body, ctx: a.limit.ctx}
	}
	return func(err error) {
		a.end(status, err)
		a.c.limit.end()
	}
}

// limitedBody tells the reason of its context instead of its effect.
type limitedBody struct {
	io.ReadCloser
	ctx context.Context
}

func (b *limitedBody) Read(p []byte) (int, error) {
	n, err := b.ReadCloser.Read(p)
	if err != nil && err != io.EOF && b.ctx.Err() != nil {
		err = context.Cause(b.ctx)
	}
	return n, err
}
