package agent

import (
	"bytes"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"regexp"
	"strconv"
	"strings"
	"sync"
	"time"

	"github.com/towpath-mesh/towpath/internal/mesh"
	"github.com/towpath-mesh/towpath/ztunnel/netns"
)

// indexLife is how long one walk over all processes serves: pods that come at
// once are found by one walk.
const indexLife = 500 * time.Millisecond

// errNoProcess is returned for a pod of which no process runs.
var errNoProcess = errors.New("no process of the pod was found")

// finder finds the network namespaces of running pods: by the control groups of
// their processes, which carry the pods' UIDs.
type finder struct {
	proc string // the host's proc file system
	own  uint64 // inode of the node's namespace: host-network pods have it

	mu    sync.Mutex
	index map[mesh.WorkloadID]process
	made  time.Time
}

// process is the oldest one of a pod. Number and start time together are not
// used twice.
type process struct {
	pid   int
	start uint64 // in clock ticks since boot
}

// find opens the pod's namespace; the caller closes it.
func (f *finder) find(id mesh.WorkloadID) (*netns.NS, error) {
	p, err := f.lookup(id)
	if err != nil {
		return nil, err
	}
	ns, err := netns.Open(f.path(p.pid, "ns/net"))
	if err != nil {
		return nil, err
	}
	// The number may have gone to another process in between.
	start, err := f.startTime(p.pid)
	if err == nil && start != p.start {
		err = errNoProcess
	}
	if err == nil && ns.Inode() == f.own {
		err = errors.New("the pod is in the node's network namespace")
	}
	if err != nil {
		_ = ns.Close()
		return nil, err
	}
	return ns, nil
}

func (f *finder) lookup(id mesh.WorkloadID) (process, error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	if p, ok := f.index[id]; ok && time.Since(f.made) < indexLife {
		return p, nil
	}
	if time.Since(f.made) >= indexLife/2 {
		index, err := f.walk()
		if err != nil {
			return process{}, err
		}
		f.index, f.made = index, time.Now()
	}
	p, ok := f.index[id]
	if !ok {
		return p, errNoProcess
	}
	return p, nil
}

// walk visits every process. Those that end meanwhile do not matter.
func (f *finder) walk() (map[mesh.WorkloadID]process, error) {
	dir, err := os.Open(f.proc)
	if err != nil {
		return nil, fmt.Errorf("host processes: %w", err)
	}
	defer dir.Close()
	names, err := dir.Readdirnames(-1)
	if err != nil {
		return nil, fmt.Errorf("host processes: %w", err)
	}
	index := map[mesh.WorkloadID]process{}
	for _, name := range names {
		pid, err := strconv.Atoi(name)
		if err != nil {
			continue
		}
		cgroup, err := os.ReadFile(f.path(pid, "cgroup"))
		if err != nil {
			continue
		}
		id, ok := podOf(cgroup)
		if !ok {
			continue
		}
		start, err := f.startTime(pid)
		if err != nil {
			continue
		}
		if old, ok := index[id]; !ok || start < old.start || (start == old.start && pid < old.pid) {
			index[id] = process{pid, start}
		}
	}
	return index, nil
}

func (f *finder) path(pid int, name string) string {
	return filepath.Join(f.proc, strconv.Itoa(pid), name)
}

// uidInCgroup matches the names that kubelet gives to pods' control groups:
// podUID (driver cgroupfs), or kubepods-QOS-podUID.slice with underscores
// (driver systemd). The UID of a static pod is a digest without dashes.
var uidInCgroup = regexp.MustCompile(`[/-]pod([0-9a-f]{32}|[0-9a-f]{8}(?:[-_][0-9a-f]{4}){3}[-_][0-9a-f]{12})(?:\.slice)?(?:/|\n|$)`)

// podOf finds the pod's UID in the text of /proc/<pid>/cgroup.
func podOf(cgroup []byte) (mesh.WorkloadID, bool) {
	m := uidInCgroup.FindSubmatch(cgroup)
	if m == nil {
		return "", false
	}
	return mesh.WorkloadID(strings.ReplaceAll(string(m[1]), "_", "-")), true
}

func (f *finder) startTime(pid int) (uint64, error) {
	stat, err := os.ReadFile(f.path(pid, "stat"))
	if errors.Is(err, fs.ErrNotExist) {
		return 0, errNoProcess
	}
	if err != nil {
		return 0, err
	}
	return parseStart(stat)
}

// parseStart reads the start time, field 22 of /proc/<pid>/stat (proc(5)). The
// second field is the program's name in parentheses, and may contain anything.
func parseStart(stat []byte) (uint64, error) {
	end := bytes.LastIndexByte(stat, ')')
	if end < 0 {
		return 0, errors.New("process status without a name")
	}
	fields := bytes.Fields(stat[end+1:])
	const startTime = 22 - 3 // the first field here is the third
	if len(fields) <= startTime {
		return 0, errors.New("process status is too short")
	}
	return strconv.ParseUint(string(fields[startTime]), 10, 64)
}
