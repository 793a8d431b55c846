package cni

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net"

	"golang.org/x/sys/unix"
)

// errAgent is the text of every failure to ask the agent; errAnswer, that of a
// refusal, comes from the agent.
var errAgent = errors.New("the node agent does not answer; pods cannot start until it does")

// ask sends one request with the namespace's descriptor (none if negative) and
// waits for the answer, until ctx ends.
func ask(ctx context.Context, path string, r Request, nsFD int) error {
	r.Version = protocolVersion
	var d net.Dialer
	c, err := d.DialContext(ctx, "unixpacket", path)
	if err != nil {
		return fmt.Errorf("%w: %w", errAgent, err)
	}
	defer c.Close()
	conn := c.(*net.UnixConn)
	stop := context.AfterFunc(ctx, func() { _ = conn.Close() })
	defer stop()
	answer, err := exchange(conn, r, nsFD)
	if err != nil {
		if ctx.Err() != nil {
			err = ctx.Err()
		}
		return fmt.Errorf("%w: %w", errAgent, err)
	}
	if answer.Error != "" {
		return errors.New(answer.Error)
	}
	return nil
}

func exchange(conn *net.UnixConn, r Request, nsFD int) (response, error) {
	var answer response
	b, err := json.Marshal(r)
	if err != nil {
		return answer, err
	}
	var rights []byte
	if nsFD >= 0 {
		rights = unix.UnixRights(nsFD)
	}
	if _, _, err := conn.WriteMsgUnix(b, rights, nil); err != nil {
		return answer, err
	}
	buf := make([]byte, maxPacket)
	n, err := conn.Read(buf)
	if err != nil {
		return answer, err
	}
	return answer, json.Unmarshal(buf[:n], &answer)
}
