package controlplane

import (
	"context"
	"crypto/sha256"
	"fmt"
	"slices"
	"strings"
	"sync"
	"time"

	authnv1 "k8s.io/api/authentication/v1"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/towpath-mesh/towpath/identity/ca"
	"github.com/towpath-mesh/towpath/internal/mesh"
)

// Claims of a bound service account token, as TokenReview reports them
// (KEP-4193, generally available in Kubernetes 1.32).
const (
	extraPodName  = "authentication.kubernetes.io/pod-name"
	extraPodUID   = "authentication.kubernetes.io/pod-uid"
	extraNodeName = "authentication.kubernetes.io/node-name"
	extraNodeUID  = "authentication.kubernetes.io/node-uid"
)

// reviewLife is how long the answer to one token is believed: long enough for a
// ztunnel that asks for hundreds of certificates at once, and short beside the
// time that a deleted pod's token stays valid anyway.
const reviewLife = 10 * time.Second

// reviewer authenticates bearer tokens by TokenReview. It is safe for concurrent
// use.
type reviewer struct {
	// review asks the API server about a token, for our audience.
	review func(ctx context.Context, token string) (authnv1.TokenReviewStatus, error)
	// nodeOf looks up where a pod runs, for clusters whose tokens do not say.
	nodeOf func(c ca.Caller) (name, uid string, err error)
	now    func() time.Time

	mu    sync.Mutex
	known map[[sha256.Size]byte]review
}

type review struct {
	caller  ca.Caller
	expires time.Time
}

var _ ca.Authenticator = (*reviewer)(nil)

// Authenticate tells whose token it is. Only a good answer is remembered.
func (r *reviewer) Authenticate(ctx context.Context, token string) (ca.Caller, error) {
	key := sha256.Sum256([]byte(token))
	if c, ok := r.recall(key); ok {
		return c, nil
	}
	answer, err := r.review(ctx, token)
	if err != nil {
		return ca.Caller{}, fmt.Errorf("token review: %w", err)
	}
	c, err := callerOf(answer)
	if err != nil {
		return ca.Caller{}, fmt.Errorf("%w: token: %w", ca.ErrUnauthenticated, err)
	}
	if c.NodeName == "" || c.NodeUID == "" {
		if c.NodeName, c.NodeUID, err = r.nodeOf(c); err != nil {
			return ca.Caller{}, fmt.Errorf("node of pod %s/%s: %w", c.Namespace, c.PodName, err)
		}
	}
	r.remember(key, c)
	return c, nil
}

// reviewWith asks the API server.
func reviewWith(c client.Client) func(context.Context, string) (authnv1.TokenReviewStatus, error) {
	return func(ctx context.Context, token string) (authnv1.TokenReviewStatus, error) {
		r := &authnv1.TokenReview{Spec: authnv1.TokenReviewSpec{Token: token, Audiences: []string{mesh.TokenAudience}}}
		if err := c.Create(ctx, r); err != nil {
			return authnv1.TokenReviewStatus{}, err
		}
		return r.Status, nil
	}
}

func (r *reviewer) recall(key [sha256.Size]byte) (ca.Caller, bool) {
	r.mu.Lock()
	defer r.mu.Unlock()
	known, ok := r.known[key]
	if !ok || !r.now().Before(known.expires) {
		return ca.Caller{}, false
	}
	return known.caller, true
}

func (r *reviewer) remember(key [sha256.Size]byte, c ca.Caller) {
	r.mu.Lock()
	defer r.mu.Unlock()
	now := r.now()
	for k, known := range r.known {
		if !now.Before(known.expires) {
			delete(r.known, k)
		}
	}
	if r.known == nil {
		r.known = map[[sha256.Size]byte]review{}
	}
	r.known[key] = review{caller: c, expires: now.Add(reviewLife)}
}

// callerOf applies the rules to the API server's answer: our audience confirmed
// (not just asked for), a service account, and a token bound to a pod.
func callerOf(s authnv1.TokenReviewStatus) (ca.Caller, error) {
	if !s.Authenticated {
		if s.Error != "" {
			return ca.Caller{}, fmt.Errorf("not authenticated: %s", s.Error)
		}
		return ca.Caller{}, fmt.Errorf("not authenticated")
	}
	if !slices.Contains(s.Audiences, mesh.TokenAudience) {
		return ca.Caller{}, fmt.Errorf("audience %s is not confirmed, only %q", mesh.TokenAudience, s.Audiences)
	}
	namespace, name, ok := splitUsername(s.User.Username)
	if !ok {
		return ca.Caller{}, fmt.Errorf("user %q is no service account", s.User.Username)
	}
	c := ca.Caller{
		Namespace: namespace, ServiceAccount: name,
		PodName: single(s.User.Extra[extraPodName]), PodUID: single(s.User.Extra[extraPodUID]),
		NodeName: single(s.User.Extra[extraNodeName]), NodeUID: single(s.User.Extra[extraNodeUID]),
	}
	if c.PodName == "" || c.PodUID == "" {
		return ca.Caller{}, fmt.Errorf("not bound to a pod")
	}
	return c, nil
}

// single returns the value of a claim that must not be ambiguous.
func single(values authnv1.ExtraValue) string {
	if len(values) != 1 {
		return ""
	}
	return values[0]
}

func splitUsername(user string) (namespace, name string, ok bool) {
	rest, ok := strings.CutPrefix(user, "system:serviceaccount:")
	if !ok {
		return "", "", false
	}
	namespace, name, ok = strings.Cut(rest, ":")
	return namespace, name, ok && namespace != "" && name != "" && !strings.Contains(name, ":")
}
