package main

import (
	"bytes"
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"os/exec"
	"strconv"
	"time"
)

// sighting is what a capture between the nodes saw.
type sighting struct {
	packets   int
	plaintext int // packets in which the shop's secret can be read
	tunnel    int // packets to or from port 15008
}

// tcpdump captures on node-1's link to the other node for that long and returns
// the frames.
func (d *demo) tcpdump(ctx context.Context, seconds time.Duration, filter string) ([][]byte, error) {
	// The tool stops by itself, so that a broken demo leaves none behind.
	cmd := d.cluster.NodeCommand(ctx, "node-1", "timeout", "--signal=INT", strconv.Itoa(int(seconds.Seconds())),
		"tcpdump", "-i", "eth0", "-w", "-", "-U", "-s", "0", "--immediate-mode", "-q", filter)
	var out, stderr bytes.Buffer
	cmd.Stdout, cmd.Stderr = &out, &stderr
	err := cmd.Run()
	var exit *exec.ExitError
	// timeout says 124 when it had to stop the tool, which is the plan.
	if err != nil && !(errors.As(err, &exit) && exit.ExitCode() == 124) {
		return nil, fmt.Errorf("tcpdump: %w: %s", err, stderr.String())
	}
	return pcapFrames(out.Bytes())
}

// pcapFrames takes the frames out of a capture file (classic pcap, the byte
// order of this machine).
func pcapFrames(file []byte) ([][]byte, error) {
	const fileHeader, frameHeader = 24, 16
	if len(file) < fileHeader || binary.NativeEndian.Uint32(file) != 0xa1b2c3d4 {
		return nil, errors.New("tcpdump wrote no capture")
	}
	var frames [][]byte
	for rest := file[fileHeader:]; len(rest) >= frameHeader; {
		n := int(binary.NativeEndian.Uint32(rest[8:]))
		if n > len(rest)-frameHeader {
			break // cut off in the middle when the tool was stopped
		}
		frames = append(frames, rest[frameHeader:frameHeader+n])
		rest = rest[frameHeader+n:]
	}
	return frames, nil
}

// pods limits a capture to traffic between pods.
const pods = "tcp and src net 10.244.0.0/16 and dst net 10.244.0.0/16"

func (d *demo) capture(ctx context.Context, seconds time.Duration) (sighting, error) {
	frames, err := d.tcpdump(ctx, seconds, pods)
	if err != nil {
		return sighting{}, err
	}
	s := sighting{packets: len(frames)}
	for _, f := range frames {
		if bytes.Contains(f, []byte(marker)) {
			s.plaintext++
		}
		if src, dst, _, ok := tcp(f); ok && (src == 15008 || dst == 15008) {
			s.tunnel++
		}
	}
	if s.packets == 0 {
		return s, errors.New("capture on node-1: no packet between pods of different nodes")
	}
	return s, nil
}

// tcp takes an Ethernet frame with IPv4 and TCP apart.
func tcp(frame []byte) (src, dst uint16, payload []byte, ok bool) {
	const ethernet = 14
	if len(frame) < ethernet+20 || binary.BigEndian.Uint16(frame[12:]) != 0x0800 {
		return 0, 0, nil, false
	}
	ip := frame[ethernet:]
	head, total := int(ip[0]&0xf)*4, int(binary.BigEndian.Uint16(ip[2:]))
	if ip[9] != 6 || total > len(ip) || total < head+20 {
		return 0, 0, nil, false
	}
	seg := ip[head:total]
	offset := int(seg[12]>>4) * 4
	if offset > len(seg) {
		return 0, 0, nil, false
	}
	return binary.BigEndian.Uint16(seg), binary.BigEndian.Uint16(seg[2:]), seg[offset:], true
}

// handshake makes a node's tunnels begin anew while capturing, by restarting
// one pod of the shop, and returns the TLS version that a server chose.
func (d *demo) handshake(ctx context.Context) (string, error) {
	type result struct {
		frames [][]byte
		err    error
	}
	captured := make(chan result, 1)
	go func() {
		frames, err := d.tcpdump(ctx, 12*time.Second, pods+" and port 15008")
		captured <- result{frames, err}
	}()
	if _, err := d.ask(ctx, nil, "-n", "shop", "rollout", "restart", "deployment/prices"); err != nil {
		<-captured
		return "", err
	}
	if _, err := d.ask(ctx, nil, "-n", "shop", "rollout", "status", "deployment/prices", "--timeout=60s"); err != nil {
		<-captured
		return "", err
	}
	r := <-captured
	if r.err != nil {
		return "", r.err
	}
	for _, f := range r.frames {
		_, _, payload, ok := tcp(f)
		if !ok {
			continue
		}
		if v, ok := serverHelloVersion(payload); ok {
			if v != 0x0304 {
				return "", fmt.Errorf("a server chose TLS version %#04x", v)
			}
			return "ServerHello selects TLS 1.3 (0x0304)", nil
		}
	}
	return "", fmt.Errorf("no ServerHello among %d packets", len(r.frames))
}

// serverHelloVersion reads the version from the supported_versions extension of
// a ServerHello (RFC 8446 section 4.2.1), which only TLS 1.3 has.
func serverHelloVersion(b []byte) (uint16, bool) {
	// Record header 5, handshake header 4, version 2, random 32.
	const fixed = 5 + 4 + 2 + 32
	if len(b) < fixed+1 || b[0] != 22 || b[5] != 2 {
		return 0, false
	}
	rest := b[fixed:]
	session := int(rest[0])
	if len(rest) < 1+session+2+1+2 {
		return 0, false
	}
	rest = rest[1+session+2+1:] // session ID, cipher suite, compression
	length := int(binary.BigEndian.Uint16(rest))
	rest = rest[2:min(2+length, len(rest))]
	for len(rest) >= 4 {
		kind, n := binary.BigEndian.Uint16(rest), int(binary.BigEndian.Uint16(rest[2:]))
		if n > len(rest)-4 {
			return 0, false
		}
		if kind == 43 && n == 2 {
			return binary.BigEndian.Uint16(rest[4:]), true
		}
		rest = rest[4+n:]
	}
	return binary.BigEndian.Uint16(b[9:]), true
}
