// Package redirect is what Towpath changes in the kernel's networking: in a
// pod's network namespace, so that its TCP reaches ztunnel's sockets there, and
// in the node's, so that kubelet's probes can be told from other traffic.
//
// Rules are values (Ruleset): they can be printed as nft would print them,
// asked what they do to a packet (Trace), and put into a namespace, checked and
// removed there by netlink. No program is started.
//
// The package knows ports, marks and addresses. It may not know which pods
// there are, who they are, or why one is enrolled.
//
// # What is captured
//
// All TCP that a pod sends, unless it stays inside the pod (loopback, its own
// address), and all TCP that reaches one of the pod's own addresses, unless it
// is a tunnel (port 15008) or comes from kubelet. That includes DNS over TCP:
// to spare port 53 would be a hole for anything that uses that port; ztunnel
// passes it on to a DNS server outside the mesh as it came. UDP is not touched,
// nor is what a pod merely forwards.
//
// Only the packet that opens a connection (SYN without ACK) is ever redirected.
// A connection that is older than the rules is new to connection tracking too,
// and would be torn apart if its next packet were redirected.
//
// # How a spoofed connection finds back
//
// ztunnel connects to the application with the client's address as the source
// and mark 0x539. The mark makes the connection's mark 0x111; the application's
// answers, which would leave for the client, get packet mark 0x111 from it, and
// a routing rule sends packets so marked to the local host instead.
//
// # Who can evade it
//
// A process in the pod with CAP_NET_ADMIN or CAP_NET_RAW can set the mark and
// pass by, as everywhere in the ambient family. Incoming connections it cannot
// forge: marks do not cross namespaces.
package redirect
