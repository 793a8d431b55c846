// Package towctl is the user's command line: it installs and removes Towpath
// and tells how it is doing.
//
// It needs nothing but a kubeconfig: what the API server does not know it asks
// the programs themselves, on their loopback admin ports through the API
// server's port-forward. It may not know how the programs work inside; it reads
// their config dumps as a user would.
package towctl
