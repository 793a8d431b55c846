package cluster

import (
	"reflect"
	"testing"
)

func TestParseHierarchies(t *testing.T) {
	const mountinfo = `22 21 0:20 / /sys/fs/cgroup rw - tmpfs tmpfs rw,mode=755
23 22 0:21 / /sys/fs/cgroup/cpuset rw,relatime shared:5 - cgroup cgroup rw,cpuset
24 22 0:22 / /sys/fs/cgroup/unified rw,relatime - cgroup2 cgroup2 rw
25 21 0:23 / /proc rw
`
	got := parseHierarchies(mountinfo)
	want := []hierarchy{
		{dir: "/sys/fs/cgroup/cpuset", options: []string{"rw", "cpuset"}},
		{dir: "/sys/fs/cgroup/unified"},
	}
	if !reflect.DeepEqual(got, want) {
		t.Errorf("got %+v, want %+v", got, want)
	}
	if !got[0].has("cpuset") || got[1].has("cpuset") {
		t.Error("cpuset is not where it should be")
	}
}
