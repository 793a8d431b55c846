package cluster

import (
	"os"
	"path/filepath"
	"testing"
)

func TestModuleKeyFollowsTheFiles(t *testing.T) {
	dir := t.TempDir()
	write := func(name, text string) string {
		if err := writeFile(filepath.Join(dir, name), []byte(text), 0o644); err != nil {
			t.Fatal(err)
		}
		key, err := moduleKey(dir)
		if err != nil {
			t.Fatal(err)
		}
		return key
	}
	first := write("go.mod", "module a")
	if write("a_test.go", "package a") != first || write("tools/b/go.mod", "module b") != first {
		t.Error("tests or other modules change the key")
	}
	if write("go.mod", "module b") == first {
		t.Error("a change of go.mod does not change the key")
	}
}

func TestRemoveOrphans(t *testing.T) {
	path := filepath.Join(t.TempDir(), "tool")
	dead, living := path+tmpMark+"99999999", path+tmpMark+"1"
	for _, file := range []string{dead, living} {
		if err := os.WriteFile(file, nil, 0o644); err != nil {
			t.Fatal(err)
		}
	}
	removeOrphans(path)
	if exists(dead) || !exists(living) {
		t.Error("removed too little or too much")
	}
}

func TestToolListsAgree(t *testing.T) {
	for _, names := range [][]string{clusterTools, echoTools, Tools()} {
		if _, err := newBuilder(os.Stderr, names); err != nil {
			t.Error(err)
		}
	}
	if _, err := newBuilder(os.Stderr, []string{"nonesuch"}); err == nil {
		t.Error("an unknown program is accepted")
	}
}
