// Package meshtest is the lab: a mesh on one machine without Kubernetes. Pods
// are network namespaces on a bridge; the node agent, ztunnel and waypoint are
// the real ones with the real redirect rules; a small control plane of the
// lab's own publishes what a test says.
//
// Only tests and benchmarks may import it. Everything lives in a network namespace that the
// test process makes for itself and that ends with it (see OwnNamespace).
package meshtest
