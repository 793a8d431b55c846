package towctl

import (
	"context"
	"fmt"
	"io"

	"github.com/spf13/cobra"
)

// Versions is what `towctl version` prints.
type Versions struct {
	Client     string      `json:"client"`
	Kubernetes string      `json:"kubernetes,omitempty"`
	Components []Component `json:"components,omitempty"`
}

func versionCommand(o *options, version string) *cobra.Command {
	var clientOnly bool
	c := &cobra.Command{
		Use:   "version",
		Short: "Print the versions of towctl and of what runs in the cluster",
		Args:  cobra.NoArgs,
		RunE: func(c *cobra.Command, _ []string) error {
			v := Versions{Client: version}
			if !clientOnly {
				if err := v.ask(c.Context(), o); err != nil {
					return err
				}
			}
			return o.print(c.OutOrStdout(), v, v.table)
		},
	}
	c.Flags().BoolVar(&clientOnly, "client", false, "print only towctl's own version")
	o.addOutput(c)
	return c
}

func (v *Versions) ask(ctx context.Context, o *options) error {
	c, err := o.connect()
	if err != nil {
		return err
	}
	if v.Kubernetes, err = c.version(ctx); err != nil {
		return err
	}
	v.Components, err = c.components(ctx, o.namespace)
	return err
}

func (v Versions) table(w io.Writer) error {
	fmt.Fprintf(w, "towctl      %s\n", v.Client)
	if v.Kubernetes == "" {
		return nil
	}
	fmt.Fprintf(w, "kubernetes  %s\n", v.Kubernetes)
	if len(v.Components) == 0 {
		fmt.Fprintln(w, "towpath     not installed")
	}
	for _, c := range v.Components {
		fmt.Fprintf(w, "%-11s %s\n", c.Name, c.Image)
	}
	return nil
}
