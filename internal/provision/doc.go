// Package provision turns a Gateway into the Kubernetes objects that run its
// proxy: ServiceAccount, Deployment, Service and PodDisruptionBudget, all with
// the Gateway's own name and owned by it. It also makes the Gateway of a
// waypoint that nobody made.
//
// It knows the types of the Kubernetes and Gateway APIs. It may not know
// clients, clocks or loggers: the same Gateway and Options give the same
// objects.
package provision
