// Package telemetry holds what the programs say about themselves: the logger,
// the OpenTelemetry setup, the access records and the names of attributes.
//
// It may not know any other package of Towpath: it is told what to write.
package telemetry
