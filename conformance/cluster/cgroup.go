package cluster

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"time"
)

const (
	// cgroupRoot holds every process of the cluster.
	cgroupRoot = "/towpath-cluster"
	// systemCgroup holds those that are not in a pod.
	systemCgroup = cgroupRoot + "/system"
)

// hierarchy is one mounted cgroup tree: a controller set of version 1, or the
// one tree of version 2.
type hierarchy struct {
	dir     string
	options []string
}

func (h hierarchy) has(controller string) bool { return slices.Contains(h.options, controller) }

// parseHierarchies finds the cgroup trees in the text of /proc/self/mountinfo.
func parseHierarchies(mountinfo string) []hierarchy {
	var found []hierarchy
	for line := range strings.Lines(mountinfo) {
		mount, fsPart, ok := strings.Cut(line, " - ")
		left, right := strings.Fields(mount), strings.Fields(fsPart)
		if !ok || len(left) < 5 || len(right) < 3 {
			continue
		}
		switch right[0] {
		case "cgroup":
			found = append(found, hierarchy{dir: left[4], options: strings.Split(right[2], ",")})
		case "cgroup2":
			found = append(found, hierarchy{dir: left[4]})
		}
	}
	return found
}

func hierarchies() ([]hierarchy, error) {
	text, err := os.ReadFile("/proc/self/mountinfo")
	if err != nil {
		return nil, err
	}
	found := parseHierarchies(string(text))
	if len(found) == 0 {
		return nil, errors.New("no cgroup file system is mounted")
	}
	return found, nil
}

// makeCgroup makes the cgroup in every tree.
func makeCgroup(name string) error {
	trees, err := hierarchies()
	if err != nil {
		return err
	}
	for _, tree := range trees {
		if err := os.MkdirAll(filepath.Join(tree.dir, name), 0o755); err != nil {
			return fmt.Errorf("make cgroup %s: %w", name, err)
		}
		if !tree.has("cpuset") {
			continue
		}
		if err := inheritCpuset(tree.dir, name); err != nil {
			return fmt.Errorf("make cgroup %s: %w", name, err)
		}
	}
	return nil
}

// inheritCpuset copies processors and memory nodes down from the root: a new
// cpuset of version 1 has none, and no process can join it.
func inheritCpuset(root, name string) error {
	dir := root
	for elem := range strings.SplitSeq(strings.Trim(name, "/"), "/") {
		parent := dir
		dir = filepath.Join(dir, elem)
		for _, file := range []string{"cpuset.cpus", "cpuset.mems"} {
			value, err := os.ReadFile(filepath.Join(parent, file))
			if err != nil {
				return err
			}
			if err := os.WriteFile(filepath.Join(dir, file), value, 0o644); err != nil {
				return err
			}
		}
	}
	return nil
}

// joinCgroup moves a process into the cgroup, in every tree.
func joinCgroup(name string, pid int) error {
	trees, err := hierarchies()
	if err != nil {
		return err
	}
	for _, tree := range trees {
		file := filepath.Join(tree.dir, name, "cgroup.procs")
		if err := os.WriteFile(file, []byte(strconv.Itoa(pid)), 0o644); err != nil {
			return fmt.Errorf("join cgroup %s: %w", name, err)
		}
	}
	return nil
}

// killCgroup ends every process in the cgroup and below it, by force. New ones
// may appear while we look, so it looks until there are none.
func killCgroup(name string, limit time.Duration) error {
	deadline := time.Now().Add(limit)
	for {
		pids, err := cgroupPids(name)
		if err != nil || len(pids) == 0 {
			return err
		}
		if time.Now().After(deadline) {
			return fmt.Errorf("kill cgroup %s: processes %v do not end", name, pids)
		}
		for _, pid := range pids {
			_ = syscall.Kill(pid, syscall.SIGKILL)
		}
		time.Sleep(20 * time.Millisecond)
	}
}

// cgroupPids lists the living processes below a cgroup, over all trees.
func cgroupPids(name string) ([]int, error) {
	trees, err := hierarchies()
	if err != nil {
		return nil, err
	}
	var pids []int
	for _, tree := range trees {
		err := eachCgroup(filepath.Join(tree.dir, name), func(dir string) error {
			text, err := os.ReadFile(filepath.Join(dir, "cgroup.procs"))
			if err != nil {
				return ignoreGone(err)
			}
			for field := range strings.FieldsSeq(string(text)) {
				pid, err := strconv.Atoi(field)
				if _, alive := identify(pid); err == nil && pid > 1 && alive {
					pids = append(pids, pid)
				}
			}
			return nil
		})
		if err != nil {
			return nil, err
		}
	}
	slices.Sort(pids)
	return slices.Compact(pids), nil
}

// removeCgroup removes the cgroup and those below it from every tree. A cgroup
// whose last process has just ended stays busy for a moment.
func removeCgroup(name string, limit time.Duration) error {
	trees, err := hierarchies()
	if err != nil {
		return err
	}
	deadline := time.Now().Add(limit)
	for _, tree := range trees {
		for {
			err := removeTree(filepath.Join(tree.dir, name))
			if err == nil {
				break
			}
			if time.Now().After(deadline) {
				return fmt.Errorf("remove cgroup: %w", err)
			}
			time.Sleep(50 * time.Millisecond)
		}
	}
	return nil
}

// removeTree removes cgroup directories from the leaves up; their files go with
// them and cannot be removed one by one.
func removeTree(dir string) error {
	var dirs []string
	err := eachCgroup(dir, func(d string) error {
		dirs = append(dirs, d)
		return nil
	})
	for _, d := range slices.Backward(dirs) {
		err = errors.Join(err, ignoreGone(syscall.Rmdir(d)))
	}
	return err
}

func eachCgroup(dir string, do func(dir string) error) error {
	return filepath.WalkDir(dir, func(path string, entry fs.DirEntry, err error) error {
		if err != nil {
			return ignoreGone(err)
		}
		if !entry.IsDir() {
			return nil
		}
		return do(path)
	})
}

// ignoreGone drops the errors of something that ended while it was looked at.
func ignoreGone(err error) error {
	if errors.Is(err, fs.ErrNotExist) || errors.Is(err, syscall.ENODEV) {
		return nil
	}
	return err
}
