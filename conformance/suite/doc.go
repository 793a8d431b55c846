// Package suite runs the official Gateway API conformance suite against
// Towpath on the cluster that KUBECONFIG names, and writes the reports.
//
// It is a module of its own: the suite's requirements stay out of the main one.
package suite
