package agent

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
)

func TestPodOf(t *testing.T) {
	const uid = "0a1b2c3d-1111-2222-3333-444455556666"
	under := strings.ReplaceAll(uid, "-", "_")
	tests := []struct{ cgroup, want string }{
		{"0::/kubepods/besteffort/pod" + uid + "/3f2a\n", uid},
		{"0::/kubepods/pod" + uid + "\n", uid},
		{"12:cpu:/node1/kubepods/burstable/pod" + uid + "/3f2a\n1:name=systemd:/\n", uid},
		{"0::/kubepods.slice/kubepods-burstable.slice/kubepods-burstable-pod" + under + ".slice/cri-containerd-3f.scope\n", uid},
		{"0::/kubepods.slice/kubepods-pod" + under + ".slice\n", uid},
		{"0::/kubepods/burstable/pod0123456789abcdef0123456789abcdef/1\n", "0123456789abcdef0123456789abcdef"},
		{"0::/user.slice/user-0.slice\n", ""},
		{"0::/kubepods/pod" + uid + "0/1\n", ""},
		{"0::/kubepods/podinfo/" + uid + "\n", ""},
		{"", ""},
	}
	for _, tt := range tests {
		got, ok := podOf([]byte(tt.cgroup))
		if string(got) != tt.want || ok != (tt.want != "") {
			t.Errorf("%q: got %q, want %q", tt.cgroup, got, tt.want)
		}
	}
}

func TestParseStart(t *testing.T) {
	tail := " S 1 1 1 0 -1 0 0 0 0 0 0 0 0 0 20 0 1 0 4711 0 0"
	for _, name := range []string{"init", "a b", "evil) S 1 1 1 0 -1 0 0 0 0 0 0 0 0 0 20 0 1 0 1 0 ("} {
		if got, err := parseStart([]byte("7 (" + name + ")" + tail)); err != nil || got != 4711 {
			t.Errorf("%q: got %d, %v", name, got, err)
		}
	}
	for _, bad := range []string{"", "7 (x", "7 (x) S 1", "7 (x)" + strings.Replace(tail, "4711", "-1", 1)} {
		if _, err := parseStart([]byte(bad)); err == nil {
			t.Errorf("%q was parsed", bad)
		}
	}
}

func FuzzProc(f *testing.F) {
	f.Add([]byte("0::/kubepods/pod0a1b2c3d-1111-2222-3333-444455556666/1\n"))
	f.Add([]byte("7 (x) S 1 1 1 0 -1 0 0 0 0 0 0 0 0 0 20 0 1 0 4711 0 0"))
	f.Fuzz(func(t *testing.T, b []byte) {
		if id, ok := podOf(b); ok && strings.ContainsAny(string(id), "_/\n") {
			t.Errorf("%q gives %q", b, id)
		}
		_, _ = parseStart(b)
	})
}

// procDir makes a proc file system of ordinary files.
type procDir struct {
	t   *testing.T
	dir string
}

func (p procDir) add(pid int, cgroup string, start int, ns string) {
	p.t.Helper()
	dir := filepath.Join(p.dir, fmt.Sprint(pid))
	stat := fmt.Sprintf("%d (app) S 1 1 1 0 -1 0 0 0 0 0 0 0 0 0 20 0 1 0 %d 0 0", pid, start)
	err := errors.Join(
		os.MkdirAll(filepath.Join(dir, "ns"), 0o755),
		os.WriteFile(filepath.Join(dir, "cgroup"), []byte(cgroup), 0o644),
		os.WriteFile(filepath.Join(dir, "stat"), []byte(stat), 0o644),
	)
	if ns != "" {
		err = errors.Join(err, os.Symlink(ns, filepath.Join(dir, "ns/net")))
	}
	if err != nil {
		p.t.Fatal(err)
	}
}

func TestFinderTakesOldestProcess(t *testing.T) {
	const uid = "0a1b2c3d-1111-2222-3333-444455556666"
	p := procDir{t, t.TempDir()}
	p.add(30, "0::/kubepods/pod"+uid+"/b\n", 500, "")
	p.add(20, "0::/kubepods/pod"+uid+"/a\n", 900, "")
	p.add(10, "0::/system.slice\n", 1, "")
	f := &finder{proc: p.dir}
	got, err := f.lookup(uid)
	if err != nil || got != (process{30, 500}) {
		t.Errorf("got %v, %v", got, err)
	}
	if _, err := f.lookup("another"); !errors.Is(err, errNoProcess) {
		t.Errorf("got %v", err)
	}
}
