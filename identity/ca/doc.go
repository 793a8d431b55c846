// Package ca signs the certificates of the mesh: the Authority holds the
// signing key, the Service answers proxies over gRPC and decides, with the help
// of an Authenticator and an Attestor, who may have which identity.
//
// A request names a pod, never an identity; the identity is derived from what
// the Attestor knows of that pod. The package may not know Kubernetes (those
// two interfaces are the seam) nor what certificates are used for.
package ca
