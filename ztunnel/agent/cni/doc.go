// Package cni holds the start of new pods until the node agent has enrolled
// them: the chained CNI plugin's behaviour, the protocol in which it asks the
// agent, and the edit that puts the plugin into the node's CNI configuration.
//
// The plugin opens the pod's network namespace itself and passes the
// descriptor, so that the agent depends on no path that may mean something else
// by then. It never calls the API server: whether the pod is enrolled is the
// agent's knowledge. It fails closed: while the agent does not answer, pods do
// not start, except in the namespaces that the configuration spares, which must
// not wait for the mesh.
//
// The package may not know how a pod is enrolled.
package cni
