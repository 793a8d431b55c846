package cluster

import (
	"archive/tar"
	"bytes"
	"crypto/sha256"
	"encoding/json"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"testing"
)

// untar reads an archive into a map from names to contents, and one to headers.
func untar(t *testing.T, r io.Reader) (map[string][]byte, map[string]*tar.Header) {
	t.Helper()
	contents, headers := map[string][]byte{}, map[string]*tar.Header{}
	for archive := tar.NewReader(r); ; {
		header, err := archive.Next()
		if err == io.EOF {
			return contents, headers
		}
		if err != nil {
			t.Fatal(err)
		}
		if headers[header.Name] != nil {
			t.Errorf("%s is twice in the archive", header.Name)
		}
		headers[header.Name] = header
		if contents[header.Name], err = io.ReadAll(archive); err != nil {
			t.Fatal(err)
		}
	}
}

func testImage(t *testing.T) Image {
	program := filepath.Join(t.TempDir(), "app")
	if err := os.WriteFile(program, []byte("program"), 0o700); err != nil {
		t.Fatal(err)
	}
	image := BinaryImage("example.org/app:v1", program,
		File{Path: "/etc/app/config", Content: []byte("a=1")},
		File{Path: "/etc/passwd", Content: []byte("own")})
	image.User = "1000"
	return image
}

func TestWriteImage(t *testing.T) {
	var out bytes.Buffer
	if err := WriteImage(&out, testImage(t)); err != nil {
		t.Fatal(err)
	}
	parts, _ := untar(t, &out)

	var manifest []struct{ RepoTags []string }
	var config struct {
		Config struct {
			Entrypoint []string
			User       string
		}
		RootFS struct {
			DiffIDs []string `json:"diff_ids"`
		}
	}
	if err := json.Unmarshal(parts["manifest.json"], &manifest); err != nil {
		t.Fatal(err)
	}
	if err := json.Unmarshal(parts["config.json"], &config); err != nil {
		t.Fatal(err)
	}
	if got := fmt.Sprint(manifest[0].RepoTags, config.Config); got != "[example.org/app:v1] {[/app] 1000}" {
		t.Errorf("names and config are %s", got)
	}
	if want := fmt.Sprintf("sha256:%x", sha256.Sum256(parts["layer.tar"])); config.RootFS.DiffIDs[0] != want {
		t.Errorf("layer digest is %s, want %s", config.RootFS.DiffIDs[0], want)
	}
}

func TestLayerFiles(t *testing.T) {
	var out bytes.Buffer
	if err := writeLayer(&out, testImage(t).Files); err != nil {
		t.Fatal(err)
	}
	contents, headers := untar(t, &out)
	for name, mode := range map[string]int64{
		"tmp/": 0o1777, "etc/": 0o755, "etc/app/": 0o755, "app": 0o755, "etc/app/config": 0o644, "etc/group": 0o644,
	} {
		if headers[name] == nil || headers[name].Mode != mode {
			t.Errorf("%s: header %v, want mode %o", name, headers[name], mode)
		}
	}
	if string(contents["etc/passwd"]) != "own" {
		t.Errorf("the image's own passwd is %q", contents["etc/passwd"])
	}
}

func TestWriteImageNamesTheMissingFile(t *testing.T) {
	image := BinaryImage("example.org/app:v1", "/does/not/exist")
	if err := WriteImage(io.Discard, image); err == nil {
		t.Error("no error")
	}
}
