package cluster

import (
	"archive/tar"
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"sync"
	"time"
)

// Image is a container image made of a few files, usually one static program.
type Image struct {
	// Names are full references with registry and tag, as pods write them.
	Names []string
	Files []File
	// Entrypoint is the program and its first arguments.
	Entrypoint []string
	Env        []string
	// User is "uid", "uid:gid" or a name in the image's /etc/passwd; empty is root.
	User string
}

// File is one file of an image: a copy of Source, or Content if that is empty.
type File struct {
	Path    string
	Source  string
	Content []byte
	// Mode zero means readable by all, and executable too if Source is.
	Mode fs.FileMode
}

// BinaryImage is an image with one program, /NAME, which is the entrypoint.
func BinaryImage(reference, binary string, more ...File) Image {
	program := "/" + filepath.Base(binary)
	return Image{
		Names:      []string{reference},
		Files:      append([]File{{Path: program, Source: binary, Mode: 0o755}}, more...),
		Entrypoint: []string{program},
		Env:        []string{"PATH=/usr/local/bin:/usr/bin:/bin:/"},
	}
}

// userFiles give names to the usual users, for programs that look theirs up.
var userFiles = []File{
	{Path: "/etc/passwd", Content: []byte("root:x:0:0:root:/:/sbin/nologin\n" +
		"nobody:x:65534:65534:nobody:/:/sbin/nologin\nnonroot:x:65532:65532:nonroot:/:/sbin/nologin\n")},
	{Path: "/etc/group", Content: []byte("root:x:0:\nnobody:x:65534:\nnonroot:x:65532:\n")},
}

// imageTime is the date of every file, so that the same files make the same image.
var imageTime = time.Unix(0, 0).UTC()

// WriteImage writes the image as a docker archive.
func WriteImage(w io.Writer, image Image) error {
	layer, err := os.CreateTemp("", "towpath-layer-*")
	if err != nil {
		return err
	}
	defer os.Remove(layer.Name())
	defer layer.Close()
	hash := sha256.New()
	if err := writeLayer(io.MultiWriter(layer, hash), image.Files); err != nil {
		return fmt.Errorf("image %s: %w", strings.Join(image.Names, " "), err)
	}
	config, manifest, err := imageConfig(image, fmt.Sprintf("sha256:%x", hash.Sum(nil)))
	if err != nil {
		return err
	}
	return writeArchive(w, config, manifest, layer)
}

func writeArchive(w io.Writer, config, manifest []byte, layer *os.File) error {
	size, err := layer.Seek(0, io.SeekCurrent)
	if err != nil {
		return err
	}
	if _, err := layer.Seek(0, io.SeekStart); err != nil {
		return err
	}
	archive := tar.NewWriter(w)
	for _, part := range []struct {
		name string
		size int64
		data io.Reader
	}{
		{"config.json", int64(len(config)), bytes.NewReader(config)},
		{"layer.tar", size, layer},
		{"manifest.json", int64(len(manifest)), bytes.NewReader(manifest)},
	} {
		if err := writeEntry(archive, part.name, 0o644, part.size, part.data); err != nil {
			return err
		}
	}
	return archive.Close()
}

func imageConfig(image Image, layerDigest string) (config, manifest []byte, err error) {
	config, err = json.Marshal(map[string]any{
		"architecture": runtime.GOARCH,
		"os":           "linux",
		"config": map[string]any{
			"Entrypoint": image.Entrypoint,
			"Env":        image.Env,
			"User":       image.User,
			"WorkingDir": "/",
		},
		"rootfs": map[string]any{"type": "layers", "diff_ids": []string{layerDigest}},
	})
	if err != nil {
		return nil, nil, err
	}
	manifest, err = json.Marshal([]map[string]any{{
		"Config":   "config.json",
		"RepoTags": image.Names,
		"Layers":   []string{"layer.tar"},
	}})
	return config, manifest, err
}

// writeLayer writes the file system: the image's files, user names unless the
// image brings its own, and /tmp.
func writeLayer(w io.Writer, files []File) error {
	for _, file := range userFiles {
		if !slices.ContainsFunc(files, func(f File) bool { return path.Clean(f.Path) == file.Path }) {
			files = append(slices.Clip(files), file)
		}
	}
	layer := tar.NewWriter(w)
	if err := writeDir(layer, "tmp/", 0o1777); err != nil {
		return err
	}
	made := map[string]bool{}
	for _, file := range files {
		name := strings.TrimPrefix(path.Clean("/"+file.Path), "/")
		if err := writeParents(layer, name, made); err != nil {
			return err
		}
		if err := writeImageFile(layer, name, file); err != nil {
			return fmt.Errorf("file %s: %w", file.Path, err)
		}
	}
	return layer.Close()
}

func writeParents(layer *tar.Writer, name string, made map[string]bool) error {
	var parents []string
	for dir := path.Dir(name); dir != "." && dir != "tmp" && !made[dir]; dir = path.Dir(dir) {
		made[dir] = true
		parents = append(parents, dir)
	}
	for _, dir := range slices.Backward(parents) {
		if err := writeDir(layer, dir+"/", 0o755); err != nil {
			return err
		}
	}
	return nil
}

func writeDir(layer *tar.Writer, name string, mode int64) error {
	return layer.WriteHeader(&tar.Header{Typeflag: tar.TypeDir, Name: name, Mode: mode, ModTime: imageTime})
}

func writeImageFile(layer *tar.Writer, name string, file File) error {
	mode := file.Mode
	if file.Source == "" {
		if mode == 0 {
			mode = 0o644
		}
		return writeEntry(layer, name, mode, int64(len(file.Content)), bytes.NewReader(file.Content))
	}
	source, err := os.Open(file.Source)
	if err != nil {
		return err
	}
	defer source.Close()
	info, err := source.Stat()
	if err != nil {
		return err
	}
	if mode == 0 {
		mode = info.Mode().Perm() | 0o444
	}
	return writeEntry(layer, name, mode, info.Size(), source)
}

func writeEntry(archive *tar.Writer, name string, mode fs.FileMode, size int64, data io.Reader) error {
	header := &tar.Header{Name: name, Mode: int64(mode.Perm()), Size: size, ModTime: imageTime}
	if err := archive.WriteHeader(header); err != nil {
		return err
	}
	_, err := io.Copy(archive, data)
	return err
}

// LoadImage makes the image available on every node, under all its names.
func (c *Cluster) LoadImage(ctx context.Context, image Image) error {
	archive, err := c.writeArchiveFile(image)
	if err != nil {
		return err
	}
	defer os.Remove(archive)
	return c.LoadArchive(ctx, archive)
}

// LoadArchive loads an image archive, in docker or OCI form, on every node.
func (c *Cluster) LoadArchive(ctx context.Context, archive string) error {
	errs := make([]error, len(c.nodes))
	var wait sync.WaitGroup
	for i, n := range c.nodes {
		wait.Go(func() { errs[i] = c.importArchive(ctx, n, archive) })
	}
	wait.Wait()
	return errors.Join(errs...)
}

// writeArchiveFile writes the image into a file in the state directory, which
// looks the same from the machine and from every node.
func (c *Cluster) writeArchiveFile(image Image) (string, error) {
	dir := c.files.path("images")
	if err := os.MkdirAll(dir, 0o755); err != nil {
		return "", err
	}
	file, err := os.CreateTemp(dir, "*.tar")
	if err != nil {
		return "", err
	}
	err = errors.Join(WriteImage(file, image), file.Close())
	if err != nil {
		return "", errors.Join(err, os.Remove(file.Name()))
	}
	return file.Name(), nil
}

func (c *Cluster) importArchive(ctx context.Context, n node, archive string) error {
	ctx, cancel := context.WithTimeout(ctx, 2*time.Minute)
	defer cancel()
	if err := c.runOnNode(ctx, n, c.ctr, "-n", "k8s.io", "images", "import", archive); err != nil {
		return fmt.Errorf("load image on %s: %w", n.Name, err)
	}
	return nil
}
