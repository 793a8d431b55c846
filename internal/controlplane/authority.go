package controlplane

import (
	"context"
	"fmt"
	"log/slog"
	"time"

	"github.com/spiffe/go-spiffe/v2/spiffeid"
	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/towpath-mesh/towpath/identity"
	"github.com/towpath-mesh/towpath/identity/ca"
)

const (
	// secretCA holds the signing certificate and key of the mesh, and may hold
	// its roots under ca.crt (needed when the chain ends without its root, or
	// when more roots than one are to be trusted).
	secretCA = "towpath-ca"
	// recheckCA is how often the Secret is looked at again.
	recheckCA = time.Minute
	// maxRetry bounds the wait between attempts at anything.
	maxRetry = 30 * time.Second
)

// caSecret keeps the mesh's certificate authority in a Secret. It is made by
// whichever replica comes first, unless somebody has put one there before.
type caSecret struct {
	client      client.Client
	namespace   string
	trustDomain spiffeid.TrustDomain
	rootLife    time.Duration
	leafLife    time.Duration
	log         *slog.Logger

	version string // resourceVersion of what was loaded
}

// untilLoaded tries until there is an authority. A Secret that cannot be used is
// never replaced: it may be the only copy of somebody's key.
func (s *caSecret) untilLoaded(ctx context.Context) (*ca.Authority, error) {
	for wait := time.Second; ; wait = min(2*wait, maxRetry) {
		authority, err := s.load(ctx)
		if err == nil {
			s.log.InfoContext(ctx, "certificate authority loaded", "trust_domain", s.trustDomain.String(), "not_after", authority.NotAfter())
			return authority, nil
		}
		s.log.ErrorContext(ctx, "no certificate authority: not ready", "secret", s.namespace+"/"+secretCA, "error", err)
		if !pause(ctx, wait) {
			return nil, ctx.Err()
		}
	}
}

func (s *caSecret) load(ctx context.Context) (*ca.Authority, error) {
	secret, err := s.getOrCreate(ctx)
	if err != nil {
		return nil, err
	}
	o, err := s.options(secret)
	if err != nil {
		return nil, err
	}
	authority, err := ca.NewAuthority(o)
	if err != nil {
		return nil, err
	}
	s.version = secret.ResourceVersion
	return authority, nil
}

// follow takes over changes of the Secret until ctx ends, and calls changed
// after each. What cannot be used is told and not taken over.
func (s *caSecret) follow(ctx context.Context, authority *ca.Authority, changed func()) error {
	for pause(ctx, recheckCA) {
		secret, err := s.get(ctx)
		if err != nil {
			s.log.WarnContext(ctx, "cannot look at the certificate authority's secret", "error", err)
			continue
		}
		if secret.ResourceVersion == s.version {
			continue
		}
		s.version = secret.ResourceVersion
		o, err := s.options(secret)
		if err == nil {
			err = authority.Reload(o)
		}
		if err != nil {
			s.log.ErrorContext(ctx, "changed certificate authority is not usable: the old one is kept", "error", err)
			continue
		}
		s.log.InfoContext(ctx, "certificate authority changed", "not_after", authority.NotAfter())
		changed()
	}
	return nil
}

func (s *caSecret) options(secret *corev1.Secret) (ca.AuthorityOptions, error) {
	o := ca.AuthorityOptions{
		TrustDomain: s.trustDomain, MaxTTL: s.leafLife, DefaultTTL: s.leafLife,
		Cert: secret.Data[corev1.TLSCertKey], Key: secret.Data[corev1.TLSPrivateKeyKey],
	}
	roots := secret.Data[corev1.ServiceAccountRootCAKey]
	if len(roots) == 0 {
		return o, nil
	}
	certs, err := identity.ParseCertificates(roots)
	if err != nil {
		return o, fmt.Errorf("%s: %w", corev1.ServiceAccountRootCAKey, err)
	}
	if o.Bundle, err = identity.NewBundle(s.trustDomain, 0, certs); err != nil {
		return o, fmt.Errorf("%s: %w", corev1.ServiceAccountRootCAKey, err)
	}
	return o, nil
}

func (s *caSecret) getOrCreate(ctx context.Context) (*corev1.Secret, error) {
	secret, err := s.get(ctx)
	if !apierrors.IsNotFound(err) {
		return secret, err
	}
	cert, key, err := ca.SelfSigned(s.trustDomain, s.rootLife)
	if err != nil {
		return nil, err
	}
	secret = &corev1.Secret{
		ObjectMeta: metav1.ObjectMeta{Namespace: s.namespace, Name: secretCA, Labels: map[string]string{"app.kubernetes.io/part-of": "towpath"}},
		Type:       corev1.SecretTypeTLS,
		Data:       map[string][]byte{corev1.TLSCertKey: cert, corev1.TLSPrivateKeyKey: key},
	}
	err = s.client.Create(ctx, secret)
	if apierrors.IsAlreadyExists(err) {
		return s.get(ctx) // another replica was faster: there is one authority only
	}
	if err == nil {
		s.log.InfoContext(ctx, "certificate authority created", "secret", s.namespace+"/"+secretCA)
	}
	return secret, err
}

func (s *caSecret) get(ctx context.Context) (*corev1.Secret, error) {
	secret := &corev1.Secret{}
	err := s.client.Get(ctx, types.NamespacedName{Namespace: s.namespace, Name: secretCA}, secret)
	return secret, err
}
