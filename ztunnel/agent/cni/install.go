package cni

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"log/slog"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"github.com/fsnotify/fsnotify"
)

const (
	// savedSuffix is appended to the name of a single-plugin configuration
	// while a list made of it stands in for it.
	savedSuffix = ".towpath-saved"
	// lookAgain is how often the directory is read though nothing was noticed.
	lookAgain = 5 * time.Second
)

// errNoConfig means that no other CNI plugin is configured yet.
var errNoConfig = errors.New("no CNI configuration to join")

// Installer puts the plugin into a node's CNI configuration and keeps it there.
type Installer struct {
	ConfDir string // the directory the container runtime reads, such as /etc/cni/net.d
	BinDir  string // where it looks for plugins, such as /opt/cni/bin
	Binary  string // the plugin's program, to be copied to BinDir
	Config  PluginConfig
	Log     *slog.Logger
}

// Run installs, installs again whenever another tool rewrites the directory,
// and calls installed when the plugin has been there for the first time. It
// ends with ctx and leaves the plugin in place: pods that start while the agent
// is away must not slip through.
func (i *Installer) Run(ctx context.Context, installed func()) error {
	if err := i.copyBinary(); err != nil {
		return fmt.Errorf("cni plugin: %w", err)
	}
	watcher, err := fsnotify.NewWatcher()
	if err != nil {
		return fmt.Errorf("watch cni configuration: %w", err)
	}
	defer watcher.Close()
	if err := watcher.Add(i.ConfDir); err != nil {
		return fmt.Errorf("watch cni configuration: %w", err)
	}
	tick := time.NewTicker(lookAgain)
	defer tick.Stop()
	var last string
	for {
		err := i.install()
		if err == nil {
			installed()
		}
		if now := fmt.Sprint(err); now != last {
			last = now
			i.note(err)
		}
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-watcher.Events:
		case err := <-watcher.Errors:
			i.Log.Warn("watching the cni configuration", "error", err)
		case <-tick.C:
		}
	}
}

func (i *Installer) note(err error) {
	if err != nil {
		i.Log.Warn("cni plugin is not in place", "directory", i.ConfDir, "error", err)
		return
	}
	i.Log.Info("cni plugin is in place", "directory", i.ConfDir)
}

// install edits the first configuration, if need be.
func (i *Installer) install() error {
	name, err := i.first()
	if err != nil {
		return err
	}
	path := filepath.Join(i.ConfDir, name)
	old, err := os.ReadFile(path)
	if err != nil {
		return err
	}
	if filepath.Ext(name) == ".conflist" {
		list, err := insert(old, i.Config)
		if err != nil || bytes.Equal(list, old) {
			return wrapName(name, err)
		}
		return replaceFile(path, list, 0o644)
	}
	list, err := convert(old)
	if err == nil {
		list, err = insert(list, i.Config)
	}
	if err != nil {
		return wrapName(name, err)
	}
	if err := replaceFile(listName(path), list, 0o644); err != nil {
		return err
	}
	return os.Rename(path, path+savedSuffix)
}

func wrapName(name string, err error) error {
	if err == nil {
		return nil
	}
	return fmt.Errorf("%s: %w", name, err)
}

func listName(conf string) string {
	return strings.TrimSuffix(conf, filepath.Ext(conf)) + ".conflist"
}

// first returns the configuration that container runtimes use: the first in the
// order of names.
func (i *Installer) first() (string, error) {
	entries, err := os.ReadDir(i.ConfDir) // sorted
	if err != nil {
		return "", err
	}
	for _, e := range entries {
		if slices.Contains([]string{".conf", ".conflist", ".json"}, filepath.Ext(e.Name())) && !e.IsDir() {
			return e.Name(), nil
		}
	}
	return "", errNoConfig
}

// Remove takes the plugin out of every configuration and deletes its program.
// It is idempotent.
func (i *Installer) Remove() error {
	entries, err := os.ReadDir(i.ConfDir)
	if err != nil {
		return fmt.Errorf("cni configuration: %w", err)
	}
	var errs []error
	for _, e := range entries {
		path := filepath.Join(i.ConfDir, e.Name())
		switch {
		case strings.HasSuffix(e.Name(), savedSuffix):
			conf := strings.TrimSuffix(path, savedSuffix)
			// The list first: two configurations at once are harmless, the
			// original one comes first.
			errs = append(errs, os.Rename(path, conf), ignoreMissing(os.Remove(listName(conf))))
		case filepath.Ext(e.Name()) == ".conflist":
			errs = append(errs, removeFrom(path))
		}
	}
	errs = append(errs, ignoreMissing(os.Remove(filepath.Join(i.BinDir, PluginType))))
	return errors.Join(errs...)
}

func ignoreMissing(err error) error {
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	return err
}

func removeFrom(path string) error {
	old, err := os.ReadFile(path)
	if err != nil {
		return ignoreMissing(err) // it was a list made by convert
	}
	list, err := remove(old)
	if err != nil || bytes.Equal(list, old) {
		return err
	}
	return replaceFile(path, list, 0o644)
}

// copyBinary copies the program, unless it is there already.
func (i *Installer) copyBinary() error {
	src, err := os.ReadFile(i.Binary)
	if err != nil {
		return err
	}
	path := filepath.Join(i.BinDir, PluginType)
	if old, err := os.ReadFile(path); err == nil && bytes.Equal(old, src) {
		return nil
	}
	return replaceFile(path, src, 0o755)
}

// replaceFile writes a file that is there whole or not at all. Its temporary
// name is one that container runtimes do not read.
func replaceFile(path string, content []byte, mode fs.FileMode) error {
	f, err := os.CreateTemp(filepath.Dir(path), ".towpath-*.tmp")
	if err != nil {
		return err
	}
	defer os.Remove(f.Name()) // fails once it is renamed
	_, err = io.Copy(f, bytes.NewReader(content))
	err = errors.Join(err, f.Chmod(mode), f.Sync(), f.Close())
	if err != nil {
		return err
	}
	return os.Rename(f.Name(), path)
}

// object is a JSON object of which most stays as it was written.
type object map[string]json.RawMessage

// convert makes a list of a single-plugin configuration.
func convert(conf []byte) ([]byte, error) {
	var plugin object
	if err := json.Unmarshal(conf, &plugin); err != nil {
		return nil, err
	}
	list := object{}
	for _, key := range []string{"cniVersion", "name"} {
		if v, ok := plugin[key]; ok {
			list[key] = v
			delete(plugin, key)
		}
	}
	plugins, err := json.Marshal([]object{plugin})
	if err != nil {
		return nil, err
	}
	list["plugins"] = plugins
	return json.MarshalIndent(list, "", "  ")
}

// insert makes the plugin the last of the list. A list that needs no change is
// returned as it is.
func insert(list []byte, c PluginConfig) ([]byte, error) {
	c.Type = PluginType
	entry, err := json.Marshal(struct { // none of PluginConf's empty fields
		Type              string   `json:"type"`
		Socket            string   `json:"socket"`
		ExcludeNamespaces []string `json:"excludeNamespaces"`
		TimeoutSeconds    int      `json:"timeoutSeconds,omitempty"`
	}{c.Type, c.Socket, c.ExcludeNamespaces, c.TimeoutSeconds})
	if err != nil {
		return nil, err
	}
	return edit(list, func(others []json.RawMessage) []json.RawMessage { return append(others, entry) })
}

// remove takes the plugin out of the list.
func remove(list []byte) ([]byte, error) {
	return edit(list, func(others []json.RawMessage) []json.RawMessage { return others })
}

// edit sets the plugins of the list to what f makes of those that are not ours.
func edit(list []byte, f func(others []json.RawMessage) []json.RawMessage) ([]byte, error) {
	var top object
	if err := json.Unmarshal(list, &top); err != nil {
		return nil, err
	}
	var before, others []json.RawMessage
	if err := json.Unmarshal(top["plugins"], &before); err != nil {
		return nil, fmt.Errorf("plugins: %w", err)
	}
	for _, raw := range before {
		var p struct {
			Type string `json:"type"`
		}
		if err := json.Unmarshal(raw, &p); err != nil {
			return nil, fmt.Errorf("plugins: %w", err)
		}
		if p.Type != PluginType {
			others = append(others, raw)
		}
	}
	if len(others) == 0 {
		return nil, errors.New("list without a plugin that makes the network")
	}
	after := f(others)
	if slices.EqualFunc(before, after, sameJSON) {
		return list, nil
	}
	plugins, err := json.Marshal(after)
	if err != nil {
		return nil, err
	}
	top["plugins"] = plugins
	out, err := json.MarshalIndent(top, "", "  ")
	return append(out, '\n'), err
}

// sameJSON compares but for white space.
func sameJSON(a, b json.RawMessage) bool {
	var x, y bytes.Buffer
	return json.Compact(&x, a) == nil && json.Compact(&y, b) == nil && bytes.Equal(x.Bytes(), y.Bytes())
}
