package cluster

import (
	"os"
	"os/exec"
	"testing"
	"time"
)

func TestParseStat(t *testing.T) {
	const tail = " 1 2 3 4 5 6 7 8 9 10 11 12 13 14 15 16 17 18 4711 20 21"
	for name, test := range map[string]struct {
		stat  string
		state byte
		start uint64
		fails bool
	}{
		"plain":                  {"42 (etcd) S" + tail, 'S', 4711, false},
		"blank and parenthesis":  {"42 (a) R (b c) Z" + tail, 'Z', 4711, false},
		"too short":              {"42 (etcd) S 1 2", 0, 0, true},
		"without a command name": {"", 0, 0, true},
	} {
		t.Run(name, func(t *testing.T) {
			state, start, err := parseStat(test.stat)
			if test.fails {
				if err == nil {
					t.Fatal("no error")
				}
				return
			}
			if err != nil || state != test.state || start != test.start {
				t.Errorf("got %c %d %v, want %c %d", state, start, err, test.state, test.start)
			}
		})
	}
}

func TestProcessIDRoundTrip(t *testing.T) {
	want := processID{PID: 7, Start: 99, Boot: "b-1"}
	got, err := parseProcessID(want.String())
	if err != nil || got != want {
		t.Errorf("got %v %v, want %v", got, err, want)
	}
	if _, err := parseProcessID("7\n"); err == nil {
		t.Error("half a pid file is accepted")
	}
}

func TestAliveTellsProcessesApart(t *testing.T) {
	own, ok := identify(os.Getpid())
	if !ok || !own.alive() {
		t.Fatal("this process is not alive")
	}
	for name, other := range map[string]processID{
		"later process with the pid": {own.PID, own.Start - 1, own.Boot},
		"before the last boot":       {own.PID, own.Start, "other"},
	} {
		if other.alive() {
			t.Errorf("%s is taken for this process", name)
		}
	}
}

func TestStopEndsOnlyTheWrittenProcess(t *testing.T) {
	l := layout{t.TempDir()}
	cmd := exec.Command("sleep", "60")
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	defer cmd.Wait()
	defer cmd.Process.Kill()
	id, _ := identify(cmd.Process.Pid)

	stale := id
	stale.Start--
	write := func(id processID) {
		if err := writeFile(l.pidFile("p"), []byte(id.String()), 0o644); err != nil {
			t.Fatal(err)
		}
		if err := l.stop("p", time.Second); err != nil {
			t.Fatal(err)
		}
	}
	write(stale)
	if !id.alive() {
		t.Fatal("a stale pid file ended another process")
	}
	write(id)
	if id.alive() || exists(l.pidFile("p")) {
		t.Error("process or pid file is left")
	}
	if err := l.stop("p", time.Second); err != nil {
		t.Errorf("second stop: %v", err)
	}
}
