// Package configpb holds the generated protobuf types of the config stream. It
// has no code of its own and is known to package configstream only.
package configpb

//go:generate protoc --go_out=. --go_opt=paths=source_relative --go-grpc_out=. --go-grpc_opt=paths=source_relative config.proto
