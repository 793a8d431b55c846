// Package controlplane is the rim of the control plane: it watches Kubernetes,
// feeds what it sees through the pure packages (registry, gatewayapi,
// provision), publishes the result on the config stream and writes back what
// belongs in Kubernetes.
//
// One goroutine, the loop, owns the picture of the cluster. Every replica runs
// it and serves; only the leader runs the writer. It is the only package that
// talks to Kubernetes, beside towctl; it holds no rule of routing, enrolment or
// naming itself, and it may not know the data plane.
package controlplane
