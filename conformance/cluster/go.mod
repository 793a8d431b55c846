module github.com/towpath-mesh/towpath/conformance/cluster

go 1.26.0

toolchain go1.27.4
