// Package issuepb holds the generated messages of the protocol by which proxies
// ask the controller for certificates. It belongs to packages ca and svid; no
// other package may see its types.
package issuepb

//go:generate protoc --proto_path=. --go_out=. --go_opt=paths=source_relative --go-grpc_out=. --go-grpc_opt=paths=source_relative issue.proto
