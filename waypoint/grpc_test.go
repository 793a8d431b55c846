package waypoint

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"slices"
	"testing"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/interop/grpc_testing"
	"google.golang.org/grpc/metadata"
	"google.golang.org/grpc/status"

	"github.com/towpath-mesh/towpath/internal/routing"
)

// grpcApp is a gRPC server that does what requests ask for.
type grpcApp struct {
	grpc_testing.UnimplementedTestServiceServer
	cancelled chan struct{}
}

func (a *grpcApp) UnaryCall(ctx context.Context, in *grpc_testing.SimpleRequest) (*grpc_testing.SimpleResponse, error) {
	md, _ := metadata.FromIncomingContext(ctx)
	grpc.SetHeader(ctx, metadata.MD{"x-initial": md["x-initial"]})
	grpc.SetTrailer(ctx, metadata.MD{"x-end-bin": md["x-end-bin"]})
	if s := in.GetResponseStatus(); s.GetCode() != 0 {
		return nil, status.Error(codes.Code(s.Code), s.Message)
	}
	return &grpc_testing.SimpleResponse{Payload: in.Payload}, nil
}

func (a *grpcApp) FullDuplexCall(stream grpc_testing.TestService_FullDuplexCallServer) error {
	for {
		in, err := stream.Recv()
		if errors.Is(err, io.EOF) {
			return nil
		}
		if err != nil {
			close(a.cancelled)
			return err
		}
		if s := in.GetResponseStatus(); s.GetCode() != 0 {
			return status.Error(codes.Code(s.Code), s.Message)
		}
		if err := stream.Send(&grpc_testing.StreamingOutputCallResponse{Payload: in.Payload}); err != nil {
			return err
		}
	}
}

func payload(s string) *grpc_testing.Payload { return &grpc_testing.Payload{Body: []byte(s)} }

// newGRPC runs the application behind a waypoint and returns a client of it.
func newGRPC(t *testing.T) (*grpc.ClientConn, *grpcApp) {
	r := newRig(t)
	svc, nowhere := r.service("grpc"), r.service("nowhere")
	ln, err := net.Listen("tcp", r.podAddr()+":0")
	if err != nil {
		t.Fatal(err)
	}
	app := &grpcApp{cancelled: make(chan struct{})}
	server := grpc.NewServer()
	grpc_testing.RegisterTestServiceServer(server, app)
	done := make(chan struct{})
	go func() { server.Serve(ln); close(done) }()
	t.Cleanup(func() { server.Stop(); <-done })
	r.endpoint(svc, ln.Addr().String(), nil)

	rule := ruleTo("/grpc.testing.TestService", svc)
	rule.ID.Kind, rule.Backends[0].H2C = routing.KindGRPCRoute, true
	missing, invalid := ruleTo("/no.Such", nowhere), ruleTo("/in.Valid", nowhere)
	invalid.Backends[0].Invalid = "BackendNotFound"
	r.table(svc, rule, missing, invalid)

	c := r.client("shop", true)
	conn, err := grpc.NewClient("passthrough:///"+r.vip(svc), grpc.WithTransportCredentials(insecure.NewCredentials()),
		grpc.WithContextDialer(func(ctx context.Context, addr string) (net.Conn, error) { return c.open(ctx, addr) }))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { conn.Close() })
	return conn, app
}

func TestGRPCUnary(t *testing.T) {
	conn, _ := newGRPC(t)
	tc := grpc_testing.NewTestServiceClient(conn)
	ctx, cancel := context.WithTimeout(context.Background(), 10*time.Second)
	defer cancel()
	big := bytes.Repeat([]byte("x"), 300_000)
	var header, trailer metadata.MD
	ctx = metadata.AppendToOutgoingContext(ctx, "x-initial", "a", "x-end-bin", "\x00\xff")
	out, err := tc.UnaryCall(ctx, &grpc_testing.SimpleRequest{Payload: &grpc_testing.Payload{Body: big}}, grpc.Header(&header), grpc.Trailer(&trailer))
	if err != nil || !bytes.Equal(out.GetPayload().GetBody(), big) {
		t.Fatalf("%v, %d bytes", err, len(out.GetPayload().GetBody()))
	}
	if !slices.Equal(header["x-initial"], []string{"a"}) || !slices.Equal(trailer["x-end-bin"], []string{"\x00\xff"}) {
		t.Errorf("header %v, trailer %v", header, trailer)
	}
	// An error without a message is a trailers-only answer.
	message := "\t\ntest with whitespace\r\nand Unicode BMP ☺ and non-BMP 😈\t\n"
	_, err = tc.UnaryCall(ctx, &grpc_testing.SimpleRequest{ResponseStatus: &grpc_testing.EchoStatus{Code: 2, Message: message}})
	if s := status.Convert(err); s.Code() != codes.Unknown || s.Message() != message {
		t.Errorf("%v", err)
	}
	for method, want := range map[string]codes.Code{
		"/grpc.testing.TestService/EmptyCall": codes.Unimplemented, // by the application
		"/no.Route/Method":                    codes.Unimplemented,
		"/no.Such/Endpoint":                   codes.Unavailable,
		"/in.Valid/Backend":                   codes.Unavailable,
	} {
		if err := conn.Invoke(ctx, method, &grpc_testing.Empty{}, &grpc_testing.Empty{}); status.Code(err) != want {
			t.Errorf("%s: %v, want %s", method, err, want)
		}
	}
}

func TestGRPCStreaming(t *testing.T) {
	conn, app := newGRPC(t)
	tc := grpc_testing.NewTestServiceClient(conn)
	ctx, cancel := context.WithTimeout(context.Background(), 10*time.Second)
	defer cancel()
	stream, err := tc.FullDuplexCall(ctx)
	if err != nil {
		t.Fatal(err)
	}
	for i := range 20 {
		want := fmt.Sprint("ping ", i)
		if err := stream.Send(&grpc_testing.StreamingOutputCallRequest{Payload: payload(want)}); err != nil {
			t.Fatal(err)
		}
		out, err := stream.Recv()
		if err != nil || string(out.GetPayload().GetBody()) != want {
			t.Fatalf("%q, %v", out.GetPayload().GetBody(), err)
		}
	}
	stream.CloseSend()
	if _, err := stream.Recv(); !errors.Is(err, io.EOF) {
		t.Errorf("end: %v", err)
	}
	// A status after messages comes in trailers.
	stream, _ = tc.FullDuplexCall(ctx)
	stream.Send(&grpc_testing.StreamingOutputCallRequest{Payload: payload("x")})
	stream.Recv()
	stream.Send(&grpc_testing.StreamingOutputCallRequest{ResponseStatus: &grpc_testing.EchoStatus{Code: 5, Message: "gone"}})
	if _, err := stream.Recv(); status.Code(err) != codes.NotFound {
		t.Errorf("status in trailers: %v", err)
	}
	// A client that gives up is noticed by the application.
	short, stop := context.WithCancel(ctx)
	stream, _ = tc.FullDuplexCall(short)
	stream.Send(&grpc_testing.StreamingOutputCallRequest{Payload: payload("x")})
	stream.Recv()
	stop()
	select {
	case <-app.cancelled:
	case <-ctx.Done():
		t.Error("the application never noticed that the client had gone")
	}
}
