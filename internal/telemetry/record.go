package telemetry

import (
	"context"
	"log/slog"
	"net/netip"
	"time"
)

// recordMessage is the message of every access record, by which a log pipeline
// finds them.
const recordMessage = "access"

// Peer is one end of a connection as a record names it. Empty fields are left
// out.
type Peer struct {
	Address   netip.AddrPort
	Workload  string // pod name
	Namespace string
	Identity  string // SPIFFE ID; empty when the end is not authenticated
	Service   string // namespace/name of the Service that was addressed
}

func (p Peer) attr(key string) slog.Attr {
	attrs := make([]slog.Attr, 0, 5)
	if p.Address.IsValid() {
		attrs = append(attrs, slog.String("addr", p.Address.String()))
	}
	attrs = appendSet(attrs, "workload", p.Workload)
	attrs = appendSet(attrs, "namespace", p.Namespace)
	attrs = appendSet(attrs, "identity", p.Identity)
	attrs = appendSet(attrs, "service", p.Service)
	return slog.Attr{Key: key, Value: slog.GroupValue(attrs...)}
}

// ConnectionRecord is the access record of one L4 connection: written exactly
// once, when the connection has ended or was refused.
type ConnectionRecord struct {
	// Direction is "outbound", "inbound" or "plaintext" (inbound outside a
	// tunnel).
	Direction string
	// Protocol is how the bytes went on: "HBONE" or "TCP".
	Protocol string
	// NextHop is where the connection was made to, if it got that far: a
	// waypoint, a tunnel port or the destination itself.
	NextHop netip.AddrPort
	Src     Peer
	Dst     Peer
	// Reason is why the connection went where it did, or why it was refused:
	// one of the words of ztunnel's decision.
	Reason  string
	TraceID string
	// Sent counts bytes from the client's side to the server's, Received the
	// other way.
	Sent, Received int64
	Start          time.Time
	Duration       time.Duration
	// Err is why it ended, if not because both sides were done.
	Err error
}

// Log writes the record.
func (r *ConnectionRecord) Log(l *slog.Logger) {
	attrs := make([]slog.Attr, 0, 12)
	attrs = append(attrs, slog.String("direction", r.Direction), slog.String("protocol", r.Protocol),
		r.Src.attr("src"), r.Dst.attr("dst"))
	if r.NextHop.IsValid() {
		attrs = append(attrs, slog.String("next_hop", r.NextHop.String()))
	}
	attrs = appendSet(attrs, "reason", r.Reason)
	attrs = appendSet(attrs, "trace_id", r.TraceID)
	attrs = append(attrs, slog.Int64("bytes_sent", r.Sent), slog.Int64("bytes_recv", r.Received), millis(r.Duration))
	level := slog.LevelInfo
	if r.Err != nil {
		level = slog.LevelWarn
		attrs = append(attrs, slog.String("error", r.Err.Error()))
	}
	l.LogAttrs(context.Background(), level, recordMessage, attrs...)
}

// RequestRecord is the access record of one HTTP request at a waypoint or
// gateway: written exactly once, whatever happened to the request.
type RequestRecord struct {
	Method, Scheme, Authority, Path string
	Version                         string // "1.1", "2"
	Src, Dst                        Peer
	// Route and Rule name what matched: "HTTPRoute ns/name" and its rule's name
	// or index. Empty when nothing did.
	Route, Rule string
	// Backend is the Service chosen, Endpoint the address used.
	Backend  string
	Endpoint netip.AddrPort
	Attempts int
	Status   int
	// GRPCStatus is the grpc-status of a gRPC response, empty otherwise.
	GRPCStatus string
	// Reason says who answered if not the backend, and why: "no route matches",
	// "no ready endpoint".
	Reason        string
	TraceID       string
	RequestBytes  int64
	ResponseBytes int64
	Start         time.Time
	Duration      time.Duration
	UpstreamFirst time.Duration // until the backend's response head; 0 without one
	Err           error
}

// Log writes the record.
func (r *RequestRecord) Log(l *slog.Logger) {
	attrs := make([]slog.Attr, 0, 20)
	attrs = append(attrs, slog.String("method", r.Method), slog.String("authority", r.Authority),
		slog.String("path", r.Path), slog.String("version", r.Version), slog.Int("status", r.Status),
		r.Src.attr("src"), r.Dst.attr("dst"))
	attrs = appendSet(attrs, "grpc_status", r.GRPCStatus)
	attrs = appendSet(attrs, "route", r.Route)
	attrs = appendSet(attrs, "rule", r.Rule)
	attrs = appendSet(attrs, "backend", r.Backend)
	if r.Endpoint.IsValid() {
		attrs = append(attrs, slog.String("endpoint", r.Endpoint.String()))
	}
	attrs = append(attrs, slog.Int("attempts", r.Attempts))
	attrs = appendSet(attrs, "reason", r.Reason)
	attrs = appendSet(attrs, "trace_id", r.TraceID)
	attrs = append(attrs, slog.Int64("bytes_recv", r.RequestBytes), slog.Int64("bytes_sent", r.ResponseBytes), millis(r.Duration))
	level := slog.LevelInfo
	if r.Err != nil {
		level = slog.LevelWarn
		attrs = append(attrs, slog.String("error", r.Err.Error()))
	}
	l.LogAttrs(context.Background(), level, recordMessage, attrs...)
}

func millis(d time.Duration) slog.Attr {
	return slog.Float64("duration_ms", float64(d.Microseconds())/1000)
}

func appendSet(attrs []slog.Attr, key, value string) []slog.Attr {
	if value == "" {
		return attrs
	}
	return append(attrs, slog.String(key, value))
}
