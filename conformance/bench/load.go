package main

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"slices"
	"sync"
	"time"
)

// target is a proxy under load: how to connect through it, and its process.
type target struct {
	name string
	pid  int
	dial func(context.Context) (net.Conn, error)
}

// sample is what one period showed.
type sample struct {
	requests int
	cpu      time.Duration
	p99      time.Duration
}

func (s sample) perCPUSecond() float64 { return float64(s.requests) / s.cpu.Seconds() }

// warmUp is not counted: pools fill, pages are touched.
const warmUp = time.Second

// measure loads the target over kept connections and counts its CPU. A single
// failed request makes the sample worthless, and is an error.
func measure(ctx context.Context, t target, o options) (sample, error) {
	conns, err := connect(ctx, t, o.conns)
	if err != nil {
		return sample{}, err
	}
	defer closeAll(conns)
	if _, err := load(conns, warmUp, o.body); err != nil {
		return sample{}, err
	}
	before, err := cpuOf(t.pid)
	if err != nil {
		return sample{}, err
	}
	latencies, err := load(conns, o.period, o.body)
	if err != nil {
		return sample{}, err
	}
	after, err := cpuOf(t.pid)
	if err != nil {
		return sample{}, err
	}
	slices.Sort(latencies)
	return sample{requests: len(latencies), cpu: after - before, p99: latencies[len(latencies)*99/100]}, nil
}

// conn is a connection with what its loop keeps between requests.
type conn struct {
	net.Conn
	r *bufio.Reader
}

func connect(ctx context.Context, t target, n int) ([]conn, error) {
	var conns []conn
	for range n {
		c, err := t.dial(ctx)
		if err != nil {
			closeAll(conns)
			return nil, err
		}
		conns = append(conns, conn{c, bufio.NewReaderSize(c, 32<<10)})
	}
	return conns, nil
}

func closeAll(conns []conn) {
	for _, c := range conns {
		c.Close()
	}
}

// load sends one request after the other on each connection.
func load(conns []conn, period time.Duration, body int) ([]time.Duration, error) {
	var wg sync.WaitGroup
	all := make([][]time.Duration, len(conns))
	errs := make([]error, len(conns))
	end := time.Now().Add(period)
	for i, c := range conns {
		wg.Go(func() { all[i], errs[i] = c.loop(end, body) })
	}
	wg.Wait()
	return slices.Concat(all...), errors.Join(errs...)
}

var request = []byte("GET /bench?q=1 HTTP/1.1\r\nHost: bench.test\r\nUser-Agent: bench\r\nAccept: */*\r\n\r\n")

func (c conn) loop(end time.Time, body int) ([]time.Duration, error) {
	var latencies []time.Duration
	for now := time.Now(); now.Before(end); {
		if _, err := c.Write(request); err != nil {
			return nil, err
		}
		resp, err := http.ReadResponse(c.r, nil)
		if err != nil {
			return nil, err
		}
		n, err := io.Copy(io.Discard, resp.Body)
		if err != nil {
			return nil, err
		}
		if resp.StatusCode != http.StatusOK || n != int64(body) {
			return nil, fmt.Errorf("status %d with %d bytes, want 200 with %d", resp.StatusCode, n, body)
		}
		done := time.Now()
		latencies = append(latencies, done.Sub(now))
		now = done
	}
	return latencies, nil
}
