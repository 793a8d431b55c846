// Package handoff is the protocol in which the node agent hands sockets to
// ztunnel: over a unix SOCK_SEQPACKET connection, with the file descriptors as
// SCM_RIGHTS. The agent listens (Server), ztunnel dials (Client).
//
// Two kinds of sockets are handed over. The listening sockets of each enrolled
// pod come with the message that adds the pod; the agent keeps the originals,
// so that connections wait in the backlog while no ztunnel accepts. Sockets to
// connect from, made in the pod's network namespace, come in batches when
// ztunnel asks for them.
//
// The package knows pods by name and sockets by number. It may not know what
// is said on them, enter a network namespace, or set a rule.
package handoff
