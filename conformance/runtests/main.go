// Command runtests runs every test of the module in the current directory with
// the race detector, and fails when one was skipped: a test that did not run
// has shown nothing. Arguments are passed on to `go test`.
package main

import (
	"bufio"
	"encoding/json"
	"fmt"
	"io"
	"os"
	"os/exec"
	"strings"
)

// event is one line of `go test -json`.
type event struct {
	Action, Package, ImportPath, Test, Output string
	Elapsed                                   float64
}

func (e event) key() string { return strings.TrimSpace(e.Package + e.ImportPath + " " + e.Test) }

// report collects what a run says.
type report struct {
	passed          int
	failed, skipped []string
	output          map[string][]string
}

func main() {
	args := append([]string{"test", "-race", "-count=1", "-json"}, os.Args[1:]...)
	if len(os.Args) == 1 {
		args = append(args, "./...")
	}
	cmd := exec.Command("go", args...)
	cmd.Env = append(os.Environ(), "TOWPATH_REQUIRE_ROOT=1")
	cmd.Stderr = os.Stderr
	out, err := cmd.StdoutPipe()
	if err == nil {
		err = cmd.Start()
	}
	if err != nil {
		fmt.Fprintln(os.Stderr, "runtests:", err)
		os.Exit(1)
	}
	r := report{output: map[string][]string{}}
	r.read(out)
	err = cmd.Wait()
	if !r.print() || err != nil {
		os.Exit(1)
	}
}

func (r *report) read(out io.Reader) {
	lines := bufio.NewScanner(out)
	lines.Buffer(nil, 16<<20)
	for lines.Scan() {
		var e event
		if json.Unmarshal(lines.Bytes(), &e) != nil {
			fmt.Println(lines.Text())
			continue
		}
		r.add(e)
	}
}

func (r *report) add(e event) {
	switch e.Action {
	case "output", "build-output":
		r.output[e.key()] = append(r.output[e.key()], e.Output)
	case "pass":
		if e.Test != "" {
			r.passed++
		} else {
			fmt.Printf("ok    %-64s %6.1f s\n", e.Package, e.Elapsed)
		}
	case "fail", "build-fail":
		r.failed = append(r.failed, e.key())
	case "skip":
		if e.Test != "" {
			r.skipped = append(r.skipped, e.key())
		}
	}
}

// print tells the result and whether it is good.
func (r *report) print() bool {
	for _, key := range r.failed {
		fmt.Printf("FAIL  %s\n%s\n", key, tail(r.output[key], 60))
	}
	for _, key := range r.skipped {
		fmt.Printf("SKIP  %s: a skipped test is a failure here\n%s\n", key, tail(r.output[key], 5))
	}
	fmt.Printf("%d passed, %d failed, %d skipped\n", r.passed, len(r.failed), len(r.skipped))
	return len(r.failed) == 0 && len(r.skipped) == 0 && r.passed > 0
}

func tail(lines []string, n int) string {
	return strings.Join(lines[max(0, len(lines)-n):], "")
}
