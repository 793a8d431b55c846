package configstream

import (
	"context"
	"fmt"
	"time"

	corepb "github.com/envoyproxy/go-control-plane/envoy/config/core/v3"
	discoverypb "github.com/envoyproxy/go-control-plane/envoy/service/discovery/v3"
	statuspb "google.golang.org/genproto/googleapis/rpc/status"
	"google.golang.org/grpc/codes"
	"google.golang.org/protobuf/types/known/structpb"
)

// Keys of the client's node metadata.
const (
	metaCapabilities = "towpath.io/capabilities" // list of strings
	metaRole         = "towpath.io/role"
	metaNode         = "towpath.io/node"
)

// stream runs one stream to its end. heard reports whether the server has sent
// anything, so that the next attempt may follow soon.
func (c *Client) stream(ctx context.Context) (heard bool, err error) {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	ctx, err = withToken(ctx, c.opts.Token)
	if err != nil {
		return false, fmt.Errorf("token: %w", err)
	}
	rpc, err := discoverypb.NewAggregatedDiscoveryServiceClient(c.conn).DeltaAggregatedResources(ctx)
	if err != nil {
		return false, err
	}
	for _, req := range c.subscriptions() {
		if err := rpc.Send(req); err != nil {
			break // Recv knows why
		}
	}
	for {
		resp, err := rpc.Recv()
		if err != nil {
			c.disconnected(heard)
			return heard, err
		}
		if !heard {
			heard = true
			c.connected()
		}
		if err := rpc.Send(c.take(resp)); err != nil {
			c.log.Debug("config stream: answer not sent", "error", err)
		}
	}
}

func (c *Client) connected() {
	c.metrics.connected.Set(1)
	c.setLost(time.Time{})
	c.log.Info("config stream: connected", "address", c.opts.Address)
}

func (c *Client) disconnected(heard bool) {
	c.metrics.connected.Set(0)
	if heard {
		c.setLost(time.Now())
	}
}

// subscriptions are the requests that open a stream: who the client is, and
// what it has of each type.
func (c *Client) subscriptions() (reqs []*discoverypb.DeltaDiscoveryRequest) {
	for _, k := range kindsOf(c.opts.Role) {
		reqs = append(reqs, &discoverypb.DeltaDiscoveryRequest{
			TypeUrl:                 k.typeURL(),
			ResourceNamesSubscribe:  []string{"*"},
			InitialResourceVersions: c.inbox.versions(k),
		})
	}
	reqs[0].Node = c.node()
	return reqs
}

func (c *Client) node() *corepb.Node {
	caps := make([]any, len(capabilities))
	for i, v := range capabilities {
		caps[i] = v
	}
	meta, err := structpb.NewStruct(map[string]any{
		metaCapabilities: caps,
		metaRole:         c.opts.Role.String(),
		metaNode:         c.opts.Node,
	})
	if err != nil { // a node name that is not UTF-8
		c.log.Warn("config stream: node metadata left out", "error", err)
	}
	return &corepb.Node{
		Id:                   c.opts.Role.String() + "/" + c.opts.Node,
		UserAgentName:        "towpath",
		UserAgentVersionType: &corepb.Node_UserAgentVersion{UserAgentVersion: c.opts.Version},
		Metadata:             meta,
	}
}

// take applies a response and returns the answer to it.
func (c *Client) take(resp *discoverypb.DeltaDiscoveryResponse) *discoverypb.DeltaDiscoveryRequest {
	ack := &discoverypb.DeltaDiscoveryRequest{TypeUrl: resp.GetTypeUrl(), ResponseNonce: resp.GetNonce()}
	k, ok := kindOf(resp.GetTypeUrl())
	if !ok {
		ack.ErrorDetail = &statuspb.Status{Code: int32(codes.InvalidArgument), Message: "unknown resource type"}
		return ack
	}
	rejected := c.inbox.apply(k, resp)
	c.metrics.updates.WithLabelValues(k.String()).Add(float64(len(resp.GetResources()) + len(resp.GetRemovedResources()) - len(rejected)))
	if len(rejected) > 0 {
		c.metrics.nacks.WithLabelValues(k.String()).Add(float64(len(rejected)))
		c.log.Warn("config stream: resources refused", "type", k.String(), "error", rejected.Error())
		ack.ErrorDetail = &statuspb.Status{Code: int32(codes.InvalidArgument), Message: rejected.Error()}
	}
	if c.inbox.complete() && !c.synced.Swap(true) && c.opts.OnSynced != nil {
		c.opts.OnSynced()
	}
	return ack
}
