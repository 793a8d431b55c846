package svid_test

import (
	"context"
	"errors"
	"io"
	"log/slog"
	"math"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/spiffe/go-spiffe/v2/spiffeid"
	"go.uber.org/goleak"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"github.com/towpath-mesh/towpath/identity"
	"github.com/towpath-mesh/towpath/identity/svid"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

var (
	td  = spiffeid.RequireTrustDomainFromString("cluster.local")
	web = spiffeid.RequireFromString("spiffe://cluster.local/ns/shop/sa/web")
	db  = spiffeid.RequireFromString("spiffe://cluster.local/ns/shop/sa/db")
)

const ttl = 100 * time.Minute

// rig is a running Manager in a bubble of fake time.
type rig struct {
	t        *testing.T
	ca       *identity.FakeCA
	issuer   *svid.FakeIssuer
	registry *prometheus.Registry
	m        *svid.Manager
}

// inBubble runs test with a Manager that runs, and stops it afterwards.
func inBubble(t *testing.T, test func(t *testing.T, r *rig)) {
	synctest.Test(t, func(t *testing.T) {
		r := &rig{t: t, ca: identity.NewFakeCA(td), registry: prometheus.NewRegistry()}
		r.issuer = svid.NewFakeIssuer(r.ca)
		r.m = svid.NewManager(svid.ManagerOptions{Issuer: r.issuer, TTL: ttl, Log: quiet(), Registry: r.registry})
		stop := run(t, r.m)
		defer stop()
		test(t, r)
	})
}

func quiet() *slog.Logger { return slog.New(slog.NewTextHandler(io.Discard, nil)) }

// run runs m until the function returned is called.
func run(t *testing.T, m *svid.Manager) (stop func()) {
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan error, 1)
	go func() { done <- m.Run(ctx) }()
	return func() {
		cancel()
		if err := <-done; err != nil {
			t.Errorf("Run: %v", err)
		}
	}
}

// advance lets time pass and everything that is due happen.
func advance(d time.Duration) {
	<-time.After(d)
	synctest.Wait()
}

func (r *rig) hold(pod string, id spiffeid.ID) identity.Source {
	r.t.Helper()
	src, err := r.m.Hold(r.t.Context(), pod, id)
	if err != nil {
		r.t.Fatalf("holding %s: %v", pod, err)
	}
	return src
}

func current(t *testing.T, src identity.Source) *identity.Material {
	t.Helper()
	m, err := src.Current()
	if err != nil {
		t.Fatal(err)
	}
	return m
}

func TestPodsShareTheirIdentity(t *testing.T) {
	inBubble(t, func(t *testing.T, r *rig) {
		s1, s2, s3 := r.hold("p1", web), r.hold("p2", web), r.hold("p3", db)
		if current(t, s1) != current(t, s2) || current(t, s3).ID() != db {
			t.Errorf("%s, %s, %s", current(t, s1), current(t, s2), current(t, s3))
		}
		if n := len(r.issuer.Requests()); n != 2 {
			t.Errorf("%d requests for two identities", n)
		}
		infos := r.m.Certificates()
		if len(infos) != 2 || infos[0].ID != db || infos[1].ID != web || strings.Join(infos[1].Pods, " ") != "p1 p2" ||
			infos[1].Serial != current(t, s1).Serial() || !infos[1].NotAfter.Equal(current(t, s1).NotAfter()) {
			t.Errorf("listed: %+v", infos)
		}

		r.m.Release("p1")
		r.m.Release("p1")
		r.m.Release("never held")
		if current(t, s1) != current(t, s2) {
			t.Error("dropped while another pod holds it")
		}
		r.m.Release("p2")
		if _, err := s1.Current(); !errors.Is(err, identity.ErrNoCertificate) {
			t.Errorf("after the last release: %v", err)
		}
		before := len(r.issuer.Requests())
		advance(ttl)
		for _, q := range r.issuer.Requests()[before:] {
			if q.ID == web {
				t.Error("renewed after the last release")
			}
		}
		if fresh := r.hold("p1", web); current(t, fresh).ID() != web {
			t.Error("cannot be held again")
		}
	})
}

func TestRenewal(t *testing.T) {
	inBubble(t, func(t *testing.T, r *rig) {
		src := r.hold("p1", web)
		first := current(t, src)
		for range 20 {
			left := time.Until(current(t, src).NotAfter())
			if left < ttl*4/10-2*time.Second {
				t.Fatalf("%s left of %s", left, ttl)
			}
			advance(ttl / 10)
		}
		if last := current(t, src); last.Serial() == first.Serial() || last.Bundle() != first.Bundle() {
			t.Errorf("first %s, last %s", first, last)
		}
		if n := len(r.issuer.Requests()); n < 4 || n > 7 {
			t.Errorf("%d requests in 2.4 lives", n)
		}
	})
}

func TestOldCertificateIsKeptUntilItExpires(t *testing.T) {
	inBubble(t, func(t *testing.T, r *rig) {
		src := r.hold("p1", web)
		first := current(t, src)
		r.issuer.SetError(status.Error(codes.Unavailable, "away"))
		advance(time.Until(first.NotAfter()) - time.Second)
		if current(t, src) != first {
			t.Error("another certificate while the authority is away")
		}
		if i := r.m.Certificates()[0]; !strings.Contains(i.LastError, "away") || i.Serial != first.Serial() {
			t.Errorf("listed: %+v", i)
		}
		if n := len(r.issuer.Requests()); n > 80 {
			t.Errorf("%d requests in an hour's outage", n)
		}
		advance(2 * time.Second)
		if _, err := src.Current(); !errors.Is(err, identity.ErrExpired) {
			t.Errorf("after its end: %v", err)
		}
		if got := r.metric("towpath_svid_seconds_to_expiry", ""); got != -1 {
			t.Errorf("%v seconds to expiry", got)
		}
		r.issuer.SetError(nil)
		advance(72 * time.Second) // the longest pause
		if current(t, src).Serial() == first.Serial() {
			t.Error("not renewed once the authority is back")
		}
		if i := r.m.Certificates()[0]; i.LastError != "" {
			t.Errorf("still an error: %+v", i)
		}
		if got := r.metric("towpath_svid_failures_total", "unavailable"); got < 40 {
			t.Errorf("%v failures counted", got)
		}
		if got := r.metric("towpath_svid_issued_total", ""); got != 2 {
			t.Errorf("%v issues counted", got)
		}
	})
}

// metric reads the value of a series; label is the value of its only label.
func (r *rig) metric(name, label string) float64 {
	r.t.Helper()
	families, err := r.registry.Gather()
	if err != nil {
		r.t.Fatal(err)
	}
	for _, f := range families {
		for _, m := range f.GetMetric() {
			if f.GetName() == name && (label == "" || m.GetLabel()[0].GetValue() == label) {
				return m.GetCounter().GetValue() + m.GetGauge().GetValue()
			}
		}
	}
	r.t.Fatalf("no metric %s %s", name, label)
	return 0
}

func TestHoldWaits(t *testing.T) {
	inBubble(t, func(t *testing.T, r *rig) {
		if v := r.metric("towpath_svid_seconds_to_expiry", ""); !math.IsNaN(v) {
			t.Errorf("%v seconds to the expiry of nothing", v)
		}
		r.issuer.SetError(status.Error(codes.NotFound, "what pod"))
		ctx, cancel := context.WithTimeout(t.Context(), 5*time.Second)
		defer cancel()
		_, err := r.m.Hold(ctx, "p1", web)
		if !errors.Is(err, context.DeadlineExceeded) || !strings.Contains(err.Error(), "what pod") {
			t.Fatalf("error %v tells neither that time is up nor why", err)
		}
		if v := r.metric("towpath_svid_waiting", ""); v != 1 {
			t.Errorf("%v waiting", v)
		}
		r.issuer.SetError(nil)
		start := time.Now()
		src := r.hold("p1", web) // still held; the next attempt is due within 5 s
		if waited := time.Since(start); waited > 10*time.Second {
			t.Errorf("waited %s", waited)
		}
		start = time.Now()
		if again := r.hold("p2", web); again != src || time.Since(start) != 0 {
			t.Error("Hold waits although there is a certificate")
		}
	})
}

// TestAnotherPodIsTriedAtOnce: the pod that has been asked for is gone; one
// that comes later must not wait for the end of the pause.
func TestAnotherPodIsTriedAtOnce(t *testing.T) {
	inBubble(t, func(t *testing.T, r *rig) {
		r.issuer.SetError(status.Error(codes.NotFound, "gone"))
		ctx, cancel := context.WithTimeout(t.Context(), time.Hour)
		defer cancel()
		if _, err := r.m.Hold(ctx, "p1", web); err == nil {
			t.Fatal("held")
		}
		r.issuer.SetError(nil)
		start := time.Now()
		r.hold("p2", web)
		if waited := time.Since(start); waited != 0 {
			t.Errorf("waited %s", waited)
		}
	})
}

func TestAllPodsOfAnIdentityAreTried(t *testing.T) {
	inBubble(t, func(t *testing.T, r *rig) {
		r.issuer.SetError(errors.New("no"))
		for _, p := range []string{"p1", "p2", "p3"} {
			ctx, cancel := context.WithTimeout(t.Context(), time.Second)
			_, _ = r.m.Hold(ctx, p, web)
			cancel()
		}
		before := len(r.issuer.Requests())
		advance(10 * time.Minute)
		seen := map[string]int{}
		for _, q := range r.issuer.Requests()[before:] {
			seen[q.PodUID]++
		}
		if len(seen) != 3 || seen["p1"] < 2 {
			t.Errorf("asked for %v", seen)
		}
	})
}

func TestHoldRefuses(t *testing.T) {
	inBubble(t, func(t *testing.T, r *rig) {
		r.hold("p1", web)
		if _, err := r.m.Hold(t.Context(), "p1", db); err == nil {
			t.Error("one pod, two identities")
		}
		for _, id := range []spiffeid.ID{{}, td.ID()} {
			if _, err := r.m.Hold(t.Context(), "p2", id); err == nil {
				t.Errorf("held %q", id)
			}
		}
	})
}

func TestReleaseEndsWaiting(t *testing.T) {
	inBubble(t, func(t *testing.T, r *rig) {
		r.issuer.SetError(errors.New("no"))
		done := make(chan error, 1)
		go func() {
			_, err := r.m.Hold(t.Context(), "p1", web)
			done <- err
		}()
		synctest.Wait()
		r.m.Release("p1")
		if err := <-done; err == nil || !strings.Contains(err.Error(), "released") {
			t.Errorf("error %v", err)
		}
	})
}

func TestStop(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		issuer := svid.NewFakeIssuer(identity.NewFakeCA(td))
		m := svid.NewManager(svid.ManagerOptions{Issuer: issuer, Log: quiet()})
		stop := run(t, m)
		src, err := svid.Self(t.Context(), m, web)
		if err != nil {
			t.Fatal(err)
		}
		issuer.SetError(errors.New("no"))
		done := make(chan error, 1)
		go func() {
			_, err := m.Hold(t.Context(), "p1", db)
			done <- err
		}()
		synctest.Wait()
		stop()
		if err := <-done; !errors.Is(err, svid.ErrStopped) {
			t.Errorf("waiting when Run ends: %v", err)
		}
		if _, err := m.Hold(t.Context(), "p2", db); !errors.Is(err, svid.ErrStopped) {
			t.Errorf("after Run: %v", err)
		}
		current(t, src) // for what is draining
		if q := issuer.Requests()[0]; q.PodUID != "" || q.ID != web {
			t.Errorf("asked for itself by %+v", q)
		}
	})
}
