// Command towpath-cni is the chained CNI plugin that holds a new pod's start
// until the node agent has enrolled it. The agent installs it.
package main

import (
	"os"

	"github.com/containernetworking/cni/pkg/skel"

	"github.com/towpath-mesh/towpath/ztunnel/agent/cni"
)

func main() {
	skel.PluginMainFuncs(cni.Plugin{Out: os.Stdout}.Functions(), cni.Versions(), "towpath-cni: holds a pod's start until the Towpath node agent has enrolled it")
}
