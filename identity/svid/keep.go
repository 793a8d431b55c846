package svid

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"time"

	"github.com/towpath-mesh/towpath/identity"
)

// keep is the life of one identity: get a certificate, wait until it is due,
// get the next; after a failure wait a little and try again.
func (m *Manager) keep(ctx context.Context, e *entry) {
	failures := 0
	for {
		wait, err := m.renew(ctx, e)
		if err != nil {
			failures++
			wait = backoff(failures, uniform())
			m.failed(ctx, e, err, wait)
		} else {
			failures = 0
		}
		if !pause(ctx, e, wait) {
			return
		}
	}
}

// pause waits for d, or less if the entry is nudged. It reports false when the
// entry's or Run's time has come.
func pause(ctx context.Context, e *entry, d time.Duration) bool {
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-t.C:
	case <-e.nudge:
	case <-e.gone:
	case <-ctx.Done():
	}
	select {
	case <-e.gone:
		return false
	default:
		return ctx.Err() == nil
	}
}

// renew gets one certificate and publishes it, and says how long to keep it.
func (m *Manager) renew(ctx context.Context, e *entry) (time.Duration, error) {
	select {
	case m.slots <- struct{}{}:
	case <-ctx.Done():
		return 0, ctx.Err()
	}
	defer func() { <-m.slots }()
	podUID, ok := m.nextPod(e)
	if !ok {
		return 0, nil // released meanwhile, as keep is about to see
	}
	ctx, cancel := context.WithTimeout(ctx, attemptTimeout)
	defer cancel()
	material, err := m.issuer.Issue(ctx, Request{PodUID: podUID, ID: e.id, TTL: m.ttl})
	if err != nil {
		return 0, err
	}
	if material.ID() != e.id {
		return 0, fmt.Errorf("%w: a certificate of %s, want %s", ErrInvalidAnswer, material.ID(), e.id)
	}
	if err := m.publish(ctx, e, material); err != nil {
		return 0, err
	}
	return renewalDelay(time.Until(material.NotAfter()), uniform()), nil
}

// nextPod chooses the pod in whose name to ask, another one each time: any of
// them may be on its way out. It reports false when there is none left.
func (m *Manager) nextPod(e *entry) (string, bool) {
	m.mu.Lock()
	defer m.mu.Unlock()
	if len(e.pods) == 0 {
		return "", false
	}
	pod := e.pods[e.attempts%len(e.pods)]
	e.attempts++
	drain(e.nudge)
	return pod, true
}

// publish makes a new certificate current, and its bundle, if that is newer,
// for everybody. Together with an older bundle the certificate is still good if
// the bundle held accepts it: controllers learn of changes one after another.
func (m *Manager) publish(ctx context.Context, e *entry, material *identity.Material) error {
	m.mu.Lock()
	defer m.mu.Unlock()
	changed, err := m.trust.Offer(material.Bundle())
	if errors.Is(err, identity.ErrStaleBundle) {
		m.log.LogAttrs(ctx, slog.LevelWarn, "trust bundle refused", slog.Any("error", err))
		err = material.VerifyWith(m.trust.Bundle(), time.Now())
	}
	if err != nil {
		return fmt.Errorf("%w: %w", ErrInvalidAnswer, err)
	}
	if len(e.pods) == 0 {
		return nil
	}
	first := e.store.Peek() == nil
	e.store.Set(material.WithBundle(m.trust.Bundle()))
	e.lastErr = nil
	drain(e.nudge)
	m.metrics.issued.Inc()
	m.log.LogAttrs(ctx, slog.LevelInfo, "certificate received", slog.String("id", e.id.String()),
		slog.String("serial", material.Serial()), slog.Time("not_after", material.NotAfter()))
	if changed {
		m.spread(ctx)
	}
	if first {
		close(e.first)
	}
	return nil
}

// spread gives the newest bundle to all other Sources, and has certificates
// renewed that it does not accept any more. The caller holds mu.
func (m *Manager) spread(ctx context.Context) {
	bundle := m.trust.Bundle()
	m.log.LogAttrs(ctx, slog.LevelInfo, "trust bundle changed", slog.String("bundle", bundle.String()))
	now := time.Now()
	for _, e := range m.entries {
		held := e.store.Peek()
		if held == nil || held.Bundle() == bundle {
			continue
		}
		e.store.Set(held.WithBundle(bundle))
		if held.VerifyWith(bundle, now) != nil {
			signal(e.nudge)
		}
	}
}

// failed records a failed attempt.
func (m *Manager) failed(ctx context.Context, e *entry, err error, wait time.Duration) {
	if ctx.Err() != nil {
		return
	}
	m.mu.Lock()
	e.lastErr = err
	m.mu.Unlock()
	m.metrics.failures.WithLabelValues(string(failureOf(err))).Inc()
	m.log.LogAttrs(ctx, slog.LevelWarn, "no certificate received", slog.String("id", e.id.String()),
		slog.Any("error", err), slog.Duration("retry_in", wait))
}
