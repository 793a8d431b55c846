package meshtest

import (
	"bufio"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"testing"
)

// unprivileged is the user that ztunnel and waypoint run as, in the lab as in a
// cluster: no capability is left.
const unprivileged = 65532

// programs builds the real programs once for the whole test run.
var programs = sync.OnceValues(func() (string, error) {
	dir, err := os.MkdirTemp("", "towpath-lab-bin-")
	if err != nil {
		return "", err
	}
	if err := os.Chmod(dir, 0o755); err != nil {
		return "", err
	}
	const module = "github.com/towpath-mesh/towpath/cmd/"
	cmd := exec.Command("go", "build", "-o", dir+"/", module+"node-agent", module+"ztunnel", module+"waypoint", module+"towpath-cni")
	cmd.Env = append(os.Environ(), "CGO_ENABLED=0")
	if out, err := cmd.CombinedOutput(); err != nil {
		return "", fmt.Errorf("go build: %w\n%s", err, out)
	}
	return dir, nil
})

// RemovePrograms removes what programs built; call it when the tests are over.
func RemovePrograms() {
	if dir, err := programs(); err == nil {
		_ = os.RemoveAll(dir)
	}
}

func program(t testing.TB, name string) string {
	t.Helper()
	dir, err := programs()
	must(t, "programs", err)
	return filepath.Join(dir, name)
}

// Record is one line of a program's log, decoded.
type Record map[string]any

// Text returns a field by its path, such as "src", "identity"; "" if there is
// none.
func (r Record) Text(path ...string) string {
	var at any = map[string]any(r)
	for _, key := range path {
		m, ok := at.(map[string]any)
		if !ok {
			return ""
		}
		at = m[key]
	}
	if at == nil {
		return ""
	}
	return fmt.Sprint(at)
}

// Process is a program of the mesh that runs in a namespace of the lab.
type Process struct {
	Name string
	t    testing.TB
	cmd  *exec.Cmd
	host *Host
	uid  uint32
	args []string

	mu      sync.Mutex
	records []Record
	other   []string // lines that are not JSON: a crash
	heard   chan struct{}
	done    chan struct{}
}

// start runs the program in the host's namespace until the test ends.
func start(t testing.TB, h *Host, uid uint32, name string, args ...string) *Process {
	t.Helper()
	p := &Process{Name: name + "@" + h.Name, t: t, host: h, uid: uid, args: append([]string{program(t, name)}, args...), heard: make(chan struct{})}
	p.launch()
	t.Cleanup(p.Stop)
	return p
}

func (p *Process) launch() {
	p.t.Helper()
	cmd := exec.Command(p.args[0], p.args[1:]...)
	cmd.SysProcAttr = &syscall.SysProcAttr{Credential: &syscall.Credential{Uid: p.uid, Gid: p.uid}}
	out, err := cmd.StdoutPipe()
	must(p.t, p.Name, err)
	cmd.Stderr = cmd.Stdout
	must(p.t, p.Name, p.host.NS.Do(cmd.Start))
	done := make(chan struct{})
	p.mu.Lock()
	p.cmd, p.done = cmd, done
	p.mu.Unlock()
	go func() {
		defer close(done)
		p.read(out)
		_ = cmd.Wait()
	}()
}

func (p *Process) read(out io.Reader) {
	lines := bufio.NewScanner(out)
	lines.Buffer(nil, 1<<20)
	for lines.Scan() {
		var r Record
		err := json.Unmarshal(lines.Bytes(), &r)
		p.mu.Lock()
		if err != nil {
			p.other = append(p.other, lines.Text())
		} else {
			p.records = append(p.records, r)
		}
		close(p.heard)
		p.heard = make(chan struct{})
		p.mu.Unlock()
	}
}

// Kill ends the process at once, as a crash would, and waits until it is gone.
func (p *Process) Kill() {
	_ = p.cmd.Process.Kill()
	<-p.done
}

// Restart runs the program again, with the same arguments.
func (p *Process) Restart() { p.launch() }

// Stop ends the process orderly, and tells what it said if the test failed. It
// is called at the end of the test too.
func (p *Process) Stop() {
	_ = p.cmd.Process.Signal(syscall.SIGTERM)
	select {
	case <-p.done:
	case <-timeout(stopTime):
		p.Kill()
		p.t.Errorf("lab: %s did not end within %s of SIGTERM", p.Name, stopTime)
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	if len(p.other) > 0 {
		p.t.Errorf("lab: %s said: %s", p.Name, strings.Join(p.other, "\n"))
	}
	if p.t.Failed() {
		for _, r := range p.records[max(0, len(p.records)-8):] {
			line, _ := json.Marshal(r)
			p.t.Logf("%s: %s", p.Name, line)
		}
	}
}

// Records returns the access records so far that match.
func (p *Process) Records(match func(Record) bool) []Record {
	p.mu.Lock()
	defer p.mu.Unlock()
	var found []Record
	for _, r := range p.records {
		if r.Text("msg") == "access" && match(r) {
			found = append(found, r)
		}
	}
	return found
}

// WaitRecords returns when n access records match, and fails the test when ctx
// ends before that.
func (p *Process) WaitRecords(ctx context.Context, n int, match func(Record) bool) []Record {
	p.t.Helper()
	for {
		p.mu.Lock()
		heard := p.heard
		p.mu.Unlock()
		if found := p.Records(match); len(found) >= n {
			return found
		}
		select {
		case <-ctx.Done():
			p.t.Fatalf("lab: %s wrote %d access records of the kind awaited, want %d", p.Name, len(p.Records(match)), n)
		case <-heard:
		}
	}
}
