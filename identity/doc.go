// Package identity says who a workload is and how the other end of a connection
// proves who it is: SPIFFE IDs of service accounts, trust bundles, certificates,
// and every tls.Config of the mesh (X.509-SVIDs over TLS 1.3).
//
// It may not know Kubernetes, configuration, or where certificates come from:
// they arrive through a Source (package svid keeps one fresh, package ca signs).
// Which peers are expected is decided elsewhere and arrives as a Matcher.
package identity
