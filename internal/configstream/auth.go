package configstream

import (
	"context"
	"errors"
	"strings"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/metadata"
	"google.golang.org/grpc/status"
)

// authorization is the metadata key of the bearer token (RFC 6750 2.1).
const authorization = "authorization"

// identify tells who calls, once for each stream or call. What it says to the
// caller does not tell why a token was refused.
func (s *Server) identify(ctx context.Context) (Peer, error) {
	token, err := bearer(ctx)
	if err != nil {
		return Peer{}, status.Error(codes.Unauthenticated, err.Error())
	}
	peer, err := s.opts.Authenticate(ctx, token)
	if err == nil {
		err = peer.check()
	}
	if err == nil {
		return peer, nil
	}
	s.log.Warn("config stream: caller refused", "error", err)
	s.metrics.refused.Inc()
	if st, ok := status.FromError(err); ok && st.Code() != codes.Unknown {
		return Peer{}, st.Err()
	}
	return Peer{}, status.Error(codes.Unauthenticated, "the token is not accepted")
}

func bearer(ctx context.Context) (string, error) {
	md, _ := metadata.FromIncomingContext(ctx)
	values := md.Get(authorization)
	if len(values) != 1 {
		return "", errors.New("one bearer token is required")
	}
	scheme, token, ok := strings.Cut(values[0], " ")
	if !ok || !strings.EqualFold(scheme, "Bearer") || token == "" {
		return "", errors.New("one bearer token is required")
	}
	return token, nil
}

// withToken adds the token to the metadata of calls made with the context.
func withToken(ctx context.Context, token func() (string, error)) (context.Context, error) {
	if token == nil {
		return nil, errors.New("no token source")
	}
	t, err := token()
	if err != nil {
		return nil, err
	}
	return metadata.AppendToOutgoingContext(ctx, authorization, "Bearer "+t), nil
}
