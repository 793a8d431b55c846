// Package svid gets certificates for a proxy and keeps them fresh: the Manager
// holds one for each identity that the proxy speaks for, the Client asks the
// controller for them. Private keys are made here and never leave the process.
//
// It may not know what the certificates are used for, nor why a pod is worth
// one; it is told which pods to hold.
package svid
