package wire

import (
	"crypto/sha1"
	"encoding/base64"
	"errors"
)

var errBadAccept = errors.New("101 whose Sec-WebSocket-Accept does not answer the key")

// checkSwitch makes sure that a 101 is the answer to this request's handshake
// (RFC 6455 section 4.2.2): else a server that echoes could have the client
// send WebSocket frames to something that reads HTTP.
func checkSwitch(req *Request, resp *Response) error {
	if resp.Tunnel == nil {
		return errUnasked101
	}
	sum := sha1.Sum([]byte(req.Header.Get("Sec-WebSocket-Key") + "258EAFA5-E914-47DA-95CA-C5AB0DC85B11"))
	if resp.Header.Get("Sec-WebSocket-Accept") != base64.StdEncoding.EncodeToString(sum[:]) {
		return errBadAccept
	}
	return nil
}
