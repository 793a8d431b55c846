// Package ztunnel is the node's half of the data path: it carries the TCP
// connections of the node's pods through HBONE tunnels, with the pods' own
// identities, and takes tunnels for them.
//
// A connection that a pod makes arrives at the pod's outbound listener (port
// 15001), is judged by decide, one pure function of a snapshot of the mesh, and
// goes to a waypoint, to the tunnel port of another pod, or on as it came. A
// tunnel that arrives for a pod (port 15008) and a plain connection (port 15006)
// are connected to the application from the client's own address.
//
// The sockets come from the node agent by package handoff, which also makes
// those to connect from: this process needs no capability and enters no network
// namespace. The package may not know HTTP requests, routes or Kubernetes.
package ztunnel
