package configstream

import (
	"context"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"github.com/towpath-mesh/towpath/internal/configstream/internal/configpb"
	"github.com/towpath-mesh/towpath/internal/mesh"
)

// reportService is the gRPC face of OnReport.
type reportService struct {
	configpb.UnimplementedNodeReportsServer
	server *Server
}

// Report hands a node agent's report to OnReport. Whether the pods are of the
// agent's node is for OnReport to check: it knows the pods.
func (r reportService) Report(ctx context.Context, req *configpb.ReportRequest) (*configpb.ReportResponse, error) {
	peer, err := r.server.identify(ctx)
	if err != nil {
		return nil, err
	}
	if peer.Role != RoleNodeAgent {
		return nil, status.Error(codes.PermissionDenied, "only node agents report")
	}
	if r.server.opts.OnReport == nil {
		return nil, status.Error(codes.Unimplemented, "reports are not taken here")
	}
	pods := each(req.GetPods(), func(p *configpb.PodReport) PodReport {
		return PodReport{ID: mesh.WorkloadID(p.GetId()), Enrolled: p.GetEnrolled(), Reason: p.GetReason(), Message: p.GetMessage()}
	})
	if err := r.server.opts.OnReport(ctx, peer, pods); err != nil {
		return nil, err
	}
	return &configpb.ReportResponse{}, nil
}

func encodeReport(p PodReport) *configpb.PodReport {
	return &configpb.PodReport{Id: string(p.ID), Enrolled: p.Enrolled, Reason: p.Reason, Message: p.Message}
}
