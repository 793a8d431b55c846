// Package registry turns Kubernetes' Pods, Namespaces, Services and
// EndpointSlices, one object at a time, into changes of the mesh: it keeps what
// it last said of each, and says only what is different now. It also answers
// the certificate authority's question which pod has a UID.
//
// It knows the types of the Kubernetes API. It may not know clients, informers,
// events, clocks or loggers, nor Gateway API: what routes add to a Service is
// given to it as mesh.Bindings.
package registry
