package hbone

import (
	"errors"
	"fmt"
	"net/http"
	"syscall"

	"golang.org/x/net/http2"
)

// Errors of Dial and of a Conn, to be told apart with errors.Is and errors.As.
var (
	// ErrDenied is matched by a StatusError 401 or 403: the peer's policy does
	// not let this client in.
	ErrDenied = errors.New("tunnel denied by the peer")
	// ErrUnavailable is matched by a StatusError 5xx: the peer could not reach
	// the destination.
	ErrUnavailable = errors.New("destination unavailable behind the tunnel")
	// ErrClosed is returned when the Dialer or Server was closed.
	ErrClosed = errors.New("tunnel endpoint closed")
	// ErrKeepalive is why a session ended whose peer no longer answered pings.
	ErrKeepalive = errors.New("peer does not answer pings")
)

// StatusError is the answer to a CONNECT that is not 200.
type StatusError struct {
	// Status is the HTTP status.
	Status int
	// Reason is the peer's explanation; may be empty.
	Reason string
}

func (e *StatusError) Error() string {
	if e.Reason == "" {
		return fmt.Sprintf("tunnel refused: %d %s", e.Status, http.StatusText(e.Status))
	}
	return fmt.Sprintf("tunnel refused: %d %s", e.Status, e.Reason)
}

// Is makes 401 and 403 an ErrDenied, 5xx an ErrUnavailable.
func (e *StatusError) Is(target error) bool {
	switch target {
	case ErrDenied:
		return e.Status == http.StatusUnauthorized || e.Status == http.StatusForbidden
	case ErrUnavailable:
		return e.Status >= 500
	}
	return false
}

// Stage is the step of making a TLS connection that failed.
type Stage string

// The stages, in order.
const (
	StageConnect Stage = "connect"
	StageTLS     Stage = "tls"
)

// ConnectError says that no TLS connection to the peer could be made.
type ConnectError struct {
	Stage Stage
	Err   error
}

func (e *ConnectError) Error() string { return fmt.Sprintf("tunnel %s: %v", e.Stage, e.Err) }

// Unwrap returns what the step failed with.
func (e *ConnectError) Unwrap() error { return e.Err }

// ResetError says that the peer, or the loss of the connection to it, ended a
// tunnel abruptly. It is a syscall.ECONNRESET.
type ResetError struct {
	// Code is the code of the peer's RST_STREAM; 0 when Err is set.
	Code http2.ErrCode
	// Err is why the whole connection was lost, nil if only the tunnel was
	// reset.
	Err error
}

func (e *ResetError) Error() string {
	if e.Err != nil {
		return "tunnel lost: " + e.Err.Error()
	}
	return "tunnel reset by peer: " + e.Code.String()
}

// Is makes the error a syscall.ECONNRESET.
func (e *ResetError) Is(target error) bool { return target == syscall.ECONNRESET }

// Unwrap returns why the connection was lost, or nil.
func (e *ResetError) Unwrap() error { return e.Err }

// unanswered wraps the end of a tunnel whose CONNECT had no answer yet: not a
// byte of the client's has been sent, so it may be tried again.
type unanswered struct{ err error }

func (e *unanswered) Error() string { return e.err.Error() }
func (e *unanswered) Unwrap() error { return e.err }
