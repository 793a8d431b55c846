package agent

import (
	"context"
	"log/slog"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/towpath-mesh/towpath/internal/admin"
)

// CleanupAndStay is Cleanup for an agent that is being uninstalled: it cleans
// the node, says by its readiness that it has, and stays until ctx ends, so that
// whoever uninstalls can wait for every node before the agents go.
func CleanupAndStay(ctx context.Context, c Config, log *slog.Logger) error {
	if err := Cleanup(c, log); err != nil {
		return err
	}
	return ended(admin.New("node-agent", prometheus.NewRegistry()).Run(ctx, admin.Addresses{Ready: c.Addresses.Ready}))
}
