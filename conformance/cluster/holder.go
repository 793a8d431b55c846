package cluster

import (
	"bufio"
	"errors"
	"fmt"
	"os"
	"os/signal"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"syscall"
)

// holderArgs start the holder of a node: it is put into the node's network
// namespace and a new mount namespace before the program begins. Mounts of the
// machine keep arriving there, none go back.
func holderArgs(helper string, n node) []string {
	return []string{
		"nsenter", "--net=/run/netns/" + n.netns(), "--",
		"unshare", "--mount", "--propagation=slave", "--",
		helper, "hold", n.dir,
	}
}

// enterArgs run a command in the namespaces that a holder owns. Only network and
// mounts are entered: `ip netns exec` would also mount a new /sys, which hides
// the cgroup trees.
func enterArgs(holderPID int) []string {
	ns := "/proc/" + strconv.Itoa(holderPID) + "/ns/"
	return []string{"nsenter", "--net=" + ns + "net", "--mount=" + ns + "mnt", "--"}
}

// HoldNode is the body of a holder process: it mounts the node's own directories
// over the machine's and then sleeps until it is told to end. dir is the node's
// directory. It must run in a mount namespace of its own.
func HoldNode(dir string) error {
	stop := make(chan os.Signal, 1)
	signal.Notify(stop, syscall.SIGINT, syscall.SIGTERM)
	own, err := os.Readlink("/proc/self/ns/mnt")
	if err != nil {
		return err
	}
	// Not pid 1: in a container that is not the machine's, but it is the parent's.
	if parent, err := os.Readlink(fmt.Sprintf("/proc/%d/ns/mnt", os.Getppid())); err == nil && parent == own {
		return errors.New("hold: not in a mount namespace of its own")
	}
	for _, target := range nodeDirs {
		if err := syscall.Mount(filepath.Join(dir, "fs", target), target, "", syscall.MS_BIND, ""); err != nil {
			return fmt.Errorf("mount %s: %w", target, err)
		}
	}
	// Shared, so that what kubelet and containerd mount reaches containers that
	// ask for mount propagation, and the other way round.
	if err := syscall.Mount("", "/", "", syscall.MS_REC|syscall.MS_SHARED, ""); err != nil {
		return fmt.Errorf("share mounts: %w", err)
	}
	if err := writeFile(holderReady(dir), []byte(own+"\n"), 0o644); err != nil {
		return err
	}
	<-stop
	return nil
}

// holderReady is the file with which a holder says that its mounts are made.
func holderReady(dir string) string { return filepath.Join(dir, "holder-ready") }

// makeNodeDirs makes a node's own directories, and the ones of the machine that
// they are mounted over. The latter are written down, to be removed again.
func (l layout) makeNodeDirs(n node) error {
	for _, dir := range nodeDirs {
		if err := os.MkdirAll(n.file(dir), 0o755); err != nil {
			return err
		}
		if err := l.makeMachineDir(dir); err != nil {
			return err
		}
	}
	return os.MkdirAll(filepath.Join(n.dir, "config"), 0o755)
}

func (l layout) makeMachineDir(dir string) error {
	var missing []string
	for d := dir; ; d = filepath.Dir(d) {
		if _, err := os.Stat(d); err == nil {
			break
		}
		missing = append(missing, d)
	}
	if len(missing) == 0 {
		return nil
	}
	slices.Reverse(missing)
	// Written down before they are made: a crash in between does no harm.
	list, err := os.OpenFile(l.createdList(), os.O_CREATE|os.O_WRONLY|os.O_APPEND, 0o644)
	if err != nil {
		return err
	}
	_, err = list.WriteString(strings.Join(missing, "\n") + "\n")
	if err := errors.Join(err, list.Close()); err != nil {
		return err
	}
	return os.MkdirAll(dir, 0o755)
}

// removeMachineDirs removes the written-down directories that are still empty.
func (l layout) removeMachineDirs() error {
	list, err := os.Open(l.createdList())
	if err != nil {
		return ignoreGone(err)
	}
	defer list.Close()
	var dirs []string
	for lines := bufio.NewScanner(list); lines.Scan(); {
		dirs = append(dirs, lines.Text())
	}
	for _, dir := range slices.Backward(dirs) {
		err := syscall.Rmdir(dir)
		if err != nil && !errors.Is(err, syscall.ENOTEMPTY) && ignoreGone(err) != nil {
			return fmt.Errorf("remove %s: %w", dir, err)
		}
	}
	return os.Remove(l.createdList())
}
