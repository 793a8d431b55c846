// Package agent is the node agent: it takes the node's pods into the mesh and
// lets them go.
//
// It enters their network namespaces, opens the listening sockets there and
// keeps them, hands them to ztunnel, puts the redirect rules in place and keeps
// them intact, marks kubelet's probes on the node, holds new pods' start until
// they are enrolled (package cni), and tells the controller what came of it.
//
// The agent is privileged, small and seldom changed. It may not read a byte of
// what pods say, hold a certificate, or talk to the Kubernetes API.
//
// Holder does the work on one pod and can be used without the rest. Agent
// decides which pods: level by level from what the controller streams, never
// from events, so that a missed or repeated one does no harm.
package agent
