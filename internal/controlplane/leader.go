package controlplane

import (
	"context"
	"fmt"
	"log/slog"
	"time"

	"golang.org/x/sync/errgroup"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/tools/leaderelection"
	"k8s.io/client-go/tools/leaderelection/resourcelock"
)

// leaseName is the Lease that the replicas compete for.
const leaseName = "towpath-controller"

// Times of the leader election. Two leaders at once do no harm, as all writes
// are idempotent; so these only decide how soon a dead leader is replaced.
const (
	leaseDuration = 15 * time.Second
	renewDeadline = 10 * time.Second
	retryPeriod   = 2 * time.Second
)

// election competes for leadership as long as it runs.
type election struct {
	set             kubernetes.Interface
	namespace, name string
	log             *slog.Logger
}

// run calls work whenever this replica is elected, with a context that ends with
// the leadership. Losing it does not end the process: a replica that cannot reach
// the API server still serves what it knows.
func (e *election) run(ctx context.Context, work func(ctx context.Context)) error {
	elected := make(chan context.Context)
	elector, err := e.elector(elected)
	if err != nil {
		return err
	}
	group, ctx := errgroup.WithContext(ctx)
	group.Go(func() error {
		for ctx.Err() == nil {
			elector.Run(ctx)
		}
		return nil
	})
	group.Go(func() error {
		for {
			select {
			case <-ctx.Done():
				return nil
			case term := <-elected:
				e.log.InfoContext(ctx, "elected as leader")
				work(term)
				e.log.InfoContext(ctx, "no longer leader")
			}
		}
	})
	return group.Wait()
}

func (e *election) elector(elected chan<- context.Context) (*leaderelection.LeaderElector, error) {
	lock, err := resourcelock.New(resourcelock.LeasesResourceLock, e.namespace, leaseName,
		e.set.CoreV1(), e.set.CoordinationV1(), resourcelock.ResourceLockConfig{Identity: e.name})
	if err != nil {
		return nil, fmt.Errorf("leader election: %w", err)
	}
	elector, err := leaderelection.NewLeaderElector(leaderelection.LeaderElectionConfig{
		Lock: lock, Name: leaseName, ReleaseOnCancel: true,
		LeaseDuration: leaseDuration, RenewDeadline: renewDeadline, RetryPeriod: retryPeriod,
		Callbacks: leaderelection.LeaderCallbacks{
			OnStartedLeading: func(term context.Context) {
				select {
				case elected <- term:
				case <-term.Done():
				}
			},
			OnStoppedLeading: func() {},
		},
	})
	if err != nil {
		return nil, fmt.Errorf("leader election: %w", err)
	}
	return elector, nil
}
