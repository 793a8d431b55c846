package towctl

import (
	"cmp"
	"context"
	"fmt"
	"io"
	"slices"
	"strings"
	"text/tabwriter"
	"time"

	"github.com/spf13/cobra"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/towpath-mesh/towpath/internal/mesh"
)

// Status is what `towctl status` prints.
type Status struct {
	Components []Component `json:"components"`
	// Proxies are the node agents, ztunnels, waypoints and gateways that hold a
	// config stream.
	Proxies      []Proxy       `json:"proxies"`
	Namespaces   []Namespace   `json:"namespaces"`
	Certificates []Certificate `json:"certificates"`
	// Problems is what could not be asked, or is wrong.
	Problems []string `json:"problems,omitempty"`
}

// Proxy is one subscriber of the config stream.
type Proxy struct {
	Role string `json:"role"`
	Pod  string `json:"pod"`
	Node string `json:"node,omitempty"`
	// Version is the program's own.
	Version string `json:"version"`
	// InSync: it has acknowledged everything that the controller has.
	InSync bool `json:"inSync"`
	// Behind counts changes not acknowledged yet.
	Behind uint64 `json:"behind,omitempty"`
	// Rejected is the newest refusal, if any.
	Rejected string `json:"rejected,omitempty"`
}

// Namespace is an enrolled namespace.
type Namespace struct {
	Name string `json:"name"`
	// Enrolled of Pods pods are captured; the others opted out, are on the host
	// network, or wait.
	Enrolled int      `json:"enrolled"`
	Pods     int      `json:"pods"`
	Waiting  []string `json:"waiting,omitempty"` // pod: reason
}

// Certificate is one that a proxy holds.
type Certificate struct {
	Holder    string    `json:"holder"`
	ID        string    `json:"id"`
	NotBefore time.Time `json:"notBefore"`
	NotAfter  time.Time `json:"notAfter"`
}

func statusCommand(o *options) *cobra.Command {
	c := &cobra.Command{
		Use:   "status",
		Short: "Show components, proxies, enrolled namespaces and certificates",
		Args:  cobra.NoArgs,
		RunE: func(c *cobra.Command, _ []string) error {
			ctx, cancel := context.WithTimeout(c.Context(), time.Minute)
			defer cancel()
			s, err := status(ctx, o)
			if err != nil {
				return err
			}
			return o.print(c.OutOrStdout(), s, s.table)
		},
	}
	o.addOutput(c)
	return c
}

func status(ctx context.Context, o *options) (*Status, error) {
	c, err := o.connect()
	if err != nil {
		return nil, err
	}
	if _, err := c.version(ctx); err != nil {
		return nil, err
	}
	s := &Status{}
	if s.Components, err = c.components(ctx, o.namespace); err != nil {
		return nil, err
	}
	if len(s.Components) == 0 {
		return nil, fmt.Errorf("namespace %s: Towpath is not installed there (towctl install, or -n for another namespace)", o.namespace)
	}
	if err := s.addNamespaces(ctx, c); err != nil {
		return nil, err
	}
	return s, s.askPrograms(ctx, c, o.namespace)
}

// addNamespaces counts pods by what the node agents have reported of them.
func (s *Status) addNamespaces(ctx context.Context, c *cluster) error {
	list, err := c.client.CoreV1().Namespaces().List(ctx, metav1.ListOptions{LabelSelector: mesh.LabelMesh + "=" + mesh.MeshEnabled})
	if err != nil {
		return err
	}
	for _, ns := range list.Items {
		pods, err := c.client.CoreV1().Pods(ns.Name).List(ctx, metav1.ListOptions{})
		if err != nil {
			return err
		}
		n := Namespace{Name: ns.Name}
		for i := range pods.Items {
			n.add(&pods.Items[i])
		}
		s.Namespaces = append(s.Namespaces, n)
	}
	return nil
}

// add counts a pod; the mesh's own proxies and pods that have ended are none to
// take in.
func (n *Namespace) add(p *corev1.Pod) {
	ended := p.Status.Phase == corev1.PodSucceeded || p.Status.Phase == corev1.PodFailed
	if p.Labels[mesh.LabelGatewayName] != "" || ended {
		return
	}
	n.Pods++
	if captured(p) {
		n.Enrolled++
		return
	}
	for _, cond := range p.Status.Conditions {
		if string(cond.Type) == mesh.ConditionEnrolled && cond.Message != "" {
			n.Waiting = append(n.Waiting, p.Name+": "+cond.Message)
		}
	}
}

// askPrograms asks the controllers who is connected and the proxies what
// certificates they hold. What does not answer is a problem, not an error.
func (s *Status) askPrograms(ctx context.Context, c *cluster, namespace string) error {
	pods, err := c.client.CoreV1().Pods(namespace).List(ctx, metav1.ListOptions{LabelSelector: "app.kubernetes.io/part-of=towpath"})
	if err != nil {
		return err
	}
	proxies, err := c.client.CoreV1().Pods("").List(ctx, metav1.ListOptions{LabelSelector: mesh.LabelGatewayName + "," + mesh.LabelManaged})
	if err != nil {
		return err
	}
	for _, p := range append(pods.Items, proxies.Items...) {
		if p.Status.Phase != corev1.PodRunning || p.DeletionTimestamp != nil {
			continue
		}
		switch name := p.Labels["app.kubernetes.io/name"]; {
		case name == "towpath-controller":
			s.note(s.addProxies(ctx, c, &p))
		case name == "towpath-ztunnel" || p.Labels[mesh.LabelGatewayName] != "":
			s.note(s.addCertificates(ctx, c, &p))
		}
	}
	slices.SortFunc(s.Proxies, func(a, b Proxy) int { return cmp.Or(cmp.Compare(a.Role, b.Role), cmp.Compare(a.Pod, b.Pod)) })
	return nil
}

func (s *Status) note(err error) {
	if err != nil {
		s.Problems = append(s.Problems, err.Error())
	}
}

// stream is the controller's view of one subscriber, as its dump spells it.
type stream struct {
	Peer struct {
		Role                 string
		Namespace, Pod, Node string
	}
	Version string
	Types   []struct {
		Type                 string
		Sent, Acked, Current uint64
	}
	LastNACK *struct{ Message string }
}

func (s *Status) addProxies(ctx context.Context, c *cluster, p *corev1.Pod) error {
	var streams []stream
	if err := c.dump(ctx, p.Namespace, p.Name, "proxies", &streams); err != nil {
		return err
	}
	for _, st := range streams {
		x := Proxy{Role: st.Peer.Role, Pod: st.Peer.Namespace + "/" + st.Peer.Pod, Node: st.Peer.Node, Version: st.Version}
		for _, t := range st.Types {
			if t.Current > t.Acked {
				x.Behind = max(x.Behind, t.Current-t.Acked)
			}
		}
		if st.LastNACK != nil {
			x.Rejected = st.LastNACK.Message
		}
		x.InSync = x.Behind == 0 && x.Rejected == ""
		s.Proxies = append(s.Proxies, x)
	}
	return nil
}

func (s *Status) addCertificates(ctx context.Context, c *cluster, p *corev1.Pod) error {
	var certs []Certificate
	if err := c.dump(ctx, p.Namespace, p.Name, "certificates", &certs); err != nil {
		return err
	}
	for _, x := range certs {
		x.Holder = p.Namespace + "/" + p.Name
		s.Certificates = append(s.Certificates, x)
	}
	return nil
}

func (s *Status) table(out io.Writer) error {
	w := tabwriter.NewWriter(out, 0, 4, 2, ' ', 0)
	fmt.Fprintln(w, "COMPONENT\tREADY\tIMAGE")
	for _, c := range s.Components {
		fmt.Fprintf(w, "%s\t%d/%d\t%s\n", c.Name, c.Ready, c.Desired, c.Image)
	}
	fmt.Fprintln(w, "\nPROXY\tROLE\tNODE\tVERSION\tCONFIG")
	for _, p := range s.Proxies {
		fmt.Fprintf(w, "%s\t%s\t%s\t%s\t%s\n", p.Pod, p.Role, p.Node, p.Version, p.word())
	}
	fmt.Fprintln(w, "\nNAMESPACE\tENROLLED PODS\tWAITING")
	for _, n := range s.Namespaces {
		fmt.Fprintf(w, "%s\t%d/%d\t%s\n", n.Name, n.Enrolled, n.Pods, strings.Join(n.Waiting, "; "))
	}
	fmt.Fprintln(w, "\nCERTIFICATE\tHELD BY\tAGE\tEXPIRES IN")
	for _, c := range s.Certificates {
		fmt.Fprintf(w, "%s\t%s\t%s\t%s\n", c.ID, c.Holder, since(c.NotBefore), until(c.NotAfter))
	}
	if err := w.Flush(); err != nil {
		return err
	}
	for _, p := range s.Problems {
		fmt.Fprintln(out, "problem:", p)
	}
	return nil
}

func (p Proxy) word() string {
	switch {
	case p.Rejected != "":
		return "rejected: " + p.Rejected
	case p.Behind > 0:
		return fmt.Sprintf("%d changes behind", p.Behind)
	default:
		return "in sync"
	}
}

func since(t time.Time) string { return time.Since(t).Round(time.Second).String() }
func until(t time.Time) string { return time.Until(t).Round(time.Second).String() }
