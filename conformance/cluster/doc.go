// Package cluster runs a real Kubernetes on one Linux machine: etcd, the
// control plane, and two nodes with containerd, kubelet and kube-proxy, all
// built from pinned Go modules. It needs root, and Debian for a few packages.
//
//	c, err := cluster.Up(ctx, cluster.Options{Log: os.Stderr})
//	if err != nil { ... }
//	defer c.Down(ctx)
//	err = c.LoadImage(ctx, cluster.Image{Names: []string{"example.org/app:v1"}, ...})
//	cmd := c.NodeCommand(ctx, "node-1", "ip", "route")
//
// # What runs where
//
// The control plane runs in the machine's own namespaces, on a bridge. A node is
// a network namespace and a mount namespace, both owned by a small holder
// process. In the mount namespace the directories that kubelet, containerd and
// CNI plugins use are the node's own (see nodeDirs), so a DaemonSet with
// hostPath volumes sees one node and not the machine. Everything else of the
// file system, /proc and /dev are the machine's.
//
//	machine   bridge 172.31.0.1: etcd, kube-apiserver, kube-controller-manager,
//	          kube-scheduler, the address controller
//	node-1    172.31.0.11, pods 10.244.1.0/24
//	node-2    172.31.0.12, pods 10.244.2.0/24
//
// The machine has routes to pods, to Services (through node-1) and to the
// addresses of load balancers, so that a test can dial all three.
//
// # State
//
// Everything the cluster makes on disk is under one directory (DefaultStateDir);
// built programs are kept elsewhere, in a cache (see CacheDir). Every process has
// a file that names it by pid and start time and is a member of a cgroup of the
// cluster, so that down finds all of them after any crash.
package cluster
