package cluster

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"time"
)

// processID is a process that cannot be mistaken for a later one with the same
// pid: the start time, in clock ticks since boot, differs. The boot id tells
// apart two boots of the machine.
type processID struct {
	PID   int
	Start uint64
	Boot  string
}

func (p processID) String() string {
	return fmt.Sprintf("%d %d %s\n", p.PID, p.Start, p.Boot)
}

func parseProcessID(text string) (processID, error) {
	var p processID
	if _, err := fmt.Sscanf(text, "%d %d %s", &p.PID, &p.Start, &p.Boot); err != nil {
		return processID{}, fmt.Errorf("pid file %q: %w", strings.TrimSpace(text), err)
	}
	return p, nil
}

// parseStat reads state and start time from the text of /proc/PID/stat. The
// command name in it may contain blanks and parentheses.
func parseStat(stat string) (state byte, start uint64, err error) {
	end := strings.LastIndexByte(stat, ')')
	if end < 0 {
		return 0, 0, errors.New("process stat has no command name")
	}
	fields := strings.Fields(stat[end+1:])
	const startField = 19 // field 22 of stat(5), counted from the state
	if len(fields) <= startField {
		return 0, 0, errors.New("process stat is too short")
	}
	start, err = strconv.ParseUint(fields[startField], 10, 64)
	return fields[0][0], start, err
}

func bootID() string {
	b, err := os.ReadFile("/proc/sys/kernel/random/boot_id")
	if err != nil {
		return "unknown"
	}
	return strings.TrimSpace(string(b))
}

// identify returns the identity of a living process.
func identify(pid int) (processID, bool) {
	stat, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid))
	if err != nil {
		return processID{}, false
	}
	state, start, err := parseStat(string(stat))
	if err != nil || state == 'Z' || state == 'X' {
		return processID{}, false
	}
	return processID{PID: pid, Start: start, Boot: bootID()}, true
}

func (p processID) alive() bool {
	now, ok := identify(p.PID)
	return ok && now == p
}

// process describes a program of the cluster that runs in the background.
type process struct {
	name string
	argv []string
	env  []string
	// node is nil for a process of the control plane.
	node *node
}

// running returns the process of that name if it lives.
func (l layout) running(name string) (processID, bool) {
	text, err := os.ReadFile(l.pidFile(name))
	if err != nil {
		return processID{}, false
	}
	id, err := parseProcessID(string(text))
	if err != nil || !id.alive() {
		return processID{}, false
	}
	return id, true
}

// start runs a process in the background unless it runs already. The log is
// appended to, so that the output of an earlier life is not lost.
func (l layout) start(p process) error {
	if _, ok := l.running(p.name); ok {
		return nil
	}
	argv := p.argv
	if p.node != nil {
		holder, ok := l.running(p.node.holder())
		if !ok {
			return fmt.Errorf("start %s: node %s has no holder process", p.name, p.node.Name)
		}
		argv = append(enterArgs(holder.PID), argv...)
	}
	return l.spawn(p, argv)
}

func (l layout) spawn(p process, argv []string) error {
	log, err := os.OpenFile(l.log(p.name), os.O_CREATE|os.O_WRONLY|os.O_APPEND, 0o644)
	if err != nil {
		return fmt.Errorf("start %s: %w", p.name, err)
	}
	defer log.Close()
	cmd := exec.Command(argv[0], argv[1:]...)
	cmd.Dir = "/"
	cmd.Env = append(baseEnv(), p.env...)
	cmd.Stdout, cmd.Stderr = log, log
	cmd.SysProcAttr = &syscall.SysProcAttr{Setsid: true}
	if err := cmd.Start(); err != nil {
		return fmt.Errorf("start %s: %w", p.name, err)
	}
	// The process outlives us; a dead one is told from a living one by its state.
	defer cmd.Process.Release()
	pid := cmd.Process.Pid
	if err := joinCgroup(systemCgroup, pid); err != nil {
		return errors.Join(fmt.Errorf("start %s: %w", p.name, err), cmd.Process.Kill())
	}
	id, ok := identify(pid)
	if !ok {
		return fmt.Errorf("start %s: it ended at once; see %s", p.name, l.log(p.name))
	}
	return writeFile(l.pidFile(p.name), []byte(id.String()), 0o644)
}

// baseEnv is the environment of the cluster's processes: not the caller's, whose
// proxy settings and the like have no meaning for them.
func baseEnv() []string {
	return []string{
		"PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin",
		"HOME=/root",
		"LANG=C.UTF-8",
	}
}

// stop ends a process: politely first, by force after the grace period.
func (l layout) stop(name string, grace time.Duration) error {
	id, ok := l.running(name)
	if ok && !endProcess(id, grace) {
		return fmt.Errorf("stop %s: process %d does not end", name, id.PID)
	}
	err := os.Remove(l.pidFile(name))
	if errors.Is(err, os.ErrNotExist) {
		return nil
	}
	return err
}

func endProcess(id processID, grace time.Duration) bool {
	_ = syscall.Kill(id.PID, syscall.SIGTERM)
	if waitGone(id, grace) {
		return true
	}
	_ = syscall.Kill(id.PID, syscall.SIGKILL)
	return waitGone(id, 5*time.Second)
}

func waitGone(id processID, limit time.Duration) bool {
	deadline := time.Now().Add(limit)
	for id.alive() {
		if time.Now().After(deadline) {
			return false
		}
		time.Sleep(10 * time.Millisecond)
	}
	return true
}

// poll calls ready until it returns nil, the limit has passed, or the named
// process has died. The error then says what was waited for and where to look.
func (l layout) poll(ctx context.Context, name string, limit time.Duration, ready func(context.Context) error) error {
	ctx, cancel := context.WithTimeout(ctx, limit)
	defer cancel()
	for {
		err := ready(ctx)
		if err == nil {
			return nil
		}
		if _, ok := l.running(name); !ok {
			return fmt.Errorf("%s ended while starting; see %s", name, l.log(name))
		}
		select {
		case <-ctx.Done():
			return fmt.Errorf("%s not ready after %s: %w; see %s", name, limit, err, l.log(name))
		case <-time.After(50 * time.Millisecond):
		}
	}
}

// run executes a short command and puts its output into the error.
func run(ctx context.Context, argv ...string) error {
	_, err := output(ctx, argv...)
	return err
}

func output(ctx context.Context, argv ...string) ([]byte, error) {
	cmd := exec.CommandContext(ctx, argv[0], argv[1:]...)
	cmd.Env = baseEnv()
	var stderr bytes.Buffer
	cmd.Stderr = &stderr
	out, err := cmd.Output()
	if err != nil {
		return nil, fmt.Errorf("%s: %w: %s", strings.Join(argv, " "), err, lastLine(stderr.String()))
	}
	return out, nil
}

func lastLine(text string) string {
	text = strings.TrimSpace(text)
	return text[strings.LastIndexByte(text, '\n')+1:]
}

// writeFile writes a file whole or not at all, and makes its directory.
func writeFile(path string, data []byte, mode os.FileMode) error {
	if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
		return err
	}
	tmp := path + ".tmp"
	if err := os.WriteFile(tmp, data, mode); err != nil {
		return err
	}
	return os.Rename(tmp, path)
}
