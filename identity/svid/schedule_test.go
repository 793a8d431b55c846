package svid

import (
	"testing"
	"time"
)

func TestRenewalDelay(t *testing.T) {
	for _, tc := range []struct {
		u    float64
		want time.Duration
	}{{0, 40 * time.Minute}, {0.5, 50 * time.Minute}, {1, 60 * time.Minute}} {
		if got := renewalDelay(100*time.Minute, tc.u).Round(time.Second); got != tc.want {
			t.Errorf("u=%v: %s, want %s", tc.u, got, tc.want)
		}
	}
}

func TestBackoff(t *testing.T) {
	for _, tc := range []struct {
		n    int
		u    float64
		want time.Duration
	}{
		{1, 0.5, 500 * time.Millisecond},
		{1, 0, 400 * time.Millisecond},
		{1, 1, 600 * time.Millisecond},
		{2, 0.5, time.Second},
		{7, 0.5, 32 * time.Second},
		{8, 0.5, 60 * time.Second},
		{9, 0.5, 60 * time.Second},
		{1 << 40, 0, 48 * time.Second},
		{1 << 40, 1, 72 * time.Second},
	} {
		if got := backoff(tc.n, tc.u).Round(time.Millisecond); got != tc.want {
			t.Errorf("failure %d, u=%v: %s, want %s", tc.n, tc.u, got, tc.want)
		}
	}
}
