// Package admin is the part of each program that operators and probes talk to:
// readiness, metrics, config dump and pprof.
//
// What can tell secrets or cost time is bound to loopback and changes nothing;
// the ports reachable from elsewhere tell metrics and readiness only. The
// package may not know the planes: they hand in functions.
package admin

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"net"
	"net/http"
	"net/http/pprof"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/promhttp"
	"golang.org/x/sync/errgroup"
)

// Addresses to bind. An empty one is not served.
type Addresses struct {
	Admin   string // loopback: config dump, pprof
	Metrics string
	Ready   string
}

// Server serves one process. Register everything before Run.
type Server struct {
	component string
	registry  *prometheus.Registry

	mu       sync.Mutex
	gates    map[string]bool // name -> opened
	draining bool
	dumps    map[string]func() any
}

// New returns a server for the component that exposes reg.
func New(component string, reg *prometheus.Registry) *Server {
	return &Server{component: component, registry: reg, gates: map[string]bool{}, dumps: map[string]func() any{}}
}

// Gate adds something that must happen before the process is ready. Calling the
// returned function says that it has; calling it again is harmless.
func (s *Server) Gate(name string) (ready func()) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.gates[name] = false
	return func() {
		s.mu.Lock()
		defer s.mu.Unlock()
		s.gates[name] = true
	}
}

// Drain makes the process not ready for good: it is about to end.
func (s *Server) Drain() {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.draining = true
}

// Dump adds a section to the config dump. f is called for each request and must
// be safe for concurrent use; its value is written as JSON.
func (s *Server) Dump(name string, f func() any) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.dumps[name] = f
}

// Waiting names the gates that are still shut, sorted.
func (s *Server) Waiting() []string {
	s.mu.Lock()
	defer s.mu.Unlock()
	var shut []string
	for name, open := range s.gates {
		if !open {
			shut = append(shut, name)
		}
	}
	if s.draining {
		shut = append(shut, "draining")
	}
	slices.Sort(shut)
	return shut
}

// Run binds all addresses first, so that an address in use ends the start, and
// serves until ctx is done.
func (s *Server) Run(ctx context.Context, a Addresses) error {
	doors := []struct {
		name, addr string
		handler    http.Handler
	}{
		{"admin", a.Admin, s.adminHandler()},
		{"metrics", a.Metrics, s.metricsHandler()},
		{"ready", a.Ready, s.readyHandler()},
	}
	group, ctx := errgroup.WithContext(ctx)
	var bound []net.Listener
	for _, d := range doors {
		if d.addr == "" {
			continue
		}
		ln, err := (&net.ListenConfig{}).Listen(ctx, "tcp", d.addr)
		if err != nil {
			for _, b := range bound {
				b.Close()
			}
			return fmt.Errorf("%s address: %w", d.name, err)
		}
		bound = append(bound, ln)
		srv := &http.Server{Handler: d.handler, ReadHeaderTimeout: 5 * time.Second}
		group.Go(func() error { return serve(ctx, srv, ln) })
	}
	return group.Wait()
}

// serve ends when ctx does. In-flight scrapes are cut: nobody depends on them.
func serve(ctx context.Context, srv *http.Server, ln net.Listener) error {
	stop := context.AfterFunc(ctx, func() { srv.Close() })
	defer stop()
	if err := srv.Serve(ln); err != nil && !errors.Is(err, http.ErrServerClosed) {
		return err
	}
	return nil
}

func (s *Server) adminHandler() http.Handler {
	mux := http.NewServeMux()
	mux.HandleFunc("GET /config_dump", s.serveDump)
	mux.Handle("GET /metrics", s.metricsHandler())
	mux.Handle("GET /healthz/ready", s.readyHandler())
	mux.HandleFunc("GET /debug/pprof/", pprof.Index)
	mux.HandleFunc("GET /debug/pprof/cmdline", pprof.Cmdline)
	mux.HandleFunc("GET /debug/pprof/profile", pprof.Profile)
	mux.HandleFunc("GET /debug/pprof/symbol", pprof.Symbol)
	mux.HandleFunc("GET /debug/pprof/trace", pprof.Trace)
	return mux
}

func (s *Server) metricsHandler() http.Handler {
	h := promhttp.HandlerFor(s.registry, promhttp.HandlerOpts{})
	mux := http.NewServeMux()
	mux.Handle("GET /metrics", h)
	return mux
}

func (s *Server) readyHandler() http.Handler {
	mux := http.NewServeMux()
	mux.HandleFunc("GET /healthz/ready", func(w http.ResponseWriter, _ *http.Request) {
		if shut := s.Waiting(); len(shut) > 0 {
			http.Error(w, s.component+" waits for: "+strings.Join(shut, ", "), http.StatusServiceUnavailable)
			return
		}
		fmt.Fprintln(w, "ok")
	})
	// Alive as long as it answers: a restart mends nothing that a gate waits for.
	mux.HandleFunc("GET /healthz/live", func(w http.ResponseWriter, _ *http.Request) { fmt.Fprintln(w, "ok") })
	return mux
}

// serveDump writes all sections, or the one that the query parameter "name"
// asks for.
func (s *Server) serveDump(w http.ResponseWriter, r *http.Request) {
	s.mu.Lock()
	dumps := maps.Clone(s.dumps)
	s.mu.Unlock()
	if name := r.URL.Query().Get("name"); name != "" {
		f, ok := dumps[name]
		if !ok {
			known := slices.Sorted(maps.Keys(dumps))
			http.Error(w, fmt.Sprintf("no section %q; there are: %s", name, strings.Join(known, ", ")), http.StatusNotFound)
			return
		}
		dumps = map[string]func() any{name: f}
	}
	out := make(map[string]any, len(dumps))
	for name, f := range dumps {
		out[name] = f()
	}
	w.Header().Set("Content-Type", "application/json")
	enc := json.NewEncoder(w)
	enc.SetIndent("", "  ")
	if err := enc.Encode(out); err != nil {
		http.Error(w, err.Error(), http.StatusInternalServerError)
	}
}
