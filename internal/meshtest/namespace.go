package meshtest

import (
	"errors"
	"fmt"
	"os"
	"os/exec"
	"syscall"
	"testing"
)

// inside marks the process that already has a namespace of its own.
const inside = "TOWPATH_LAB_NAMESPACE"

// OwnNamespace runs the tests of a package in a fresh network namespace, by
// starting the test program once more in one; call it from TestMain. Bridges,
// rules and addresses of the lab never touch the machine's, and nothing is left
// when the process ends, however it ends. Without root it runs the tests where
// they are: NewNet then refuses.
func OwnNamespace(run func() int) int {
	if os.Getenv(inside) != "" || os.Getuid() != 0 {
		return run()
	}
	cmd := exec.Command("/proc/self/exe", os.Args[1:]...)
	cmd.Env = append(os.Environ(), inside+"=1")
	cmd.Stdin, cmd.Stdout, cmd.Stderr = os.Stdin, os.Stdout, os.Stderr
	cmd.SysProcAttr = &syscall.SysProcAttr{Cloneflags: syscall.CLONE_NEWNET, Pdeathsig: syscall.SIGKILL}
	err := cmd.Run()
	var exit *exec.ExitError
	switch {
	case err == nil:
		return 0
	case errors.As(err, &exit):
		return exit.ExitCode()
	default:
		fmt.Fprintln(os.Stderr, "lab:", err)
		return 1
	}
}

// needsRoot ends a test that cannot run: loudly where nothing may be skipped.
func needsRoot(t testing.TB) {
	t.Helper()
	if os.Getenv(inside) != "" {
		return
	}
	if os.Getenv("TOWPATH_REQUIRE_ROOT") != "" {
		t.Fatal("the lab needs root and TestMain calling OwnNamespace")
	}
	t.Skip("the lab needs root")
}
