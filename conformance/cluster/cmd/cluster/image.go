package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"os"
	"path/filepath"
	"strings"

	"github.com/towpath-mesh/towpath/conformance/cluster"
)

func loadImage(ctx context.Context, stateDir string, args []string) error {
	flags := flag.NewFlagSet("load-image", flag.ExitOnError)
	user := flags.String("user", "", "user of the image, as uid or uid:gid")
	flags.Parse(args)
	if flags.NArg() == 0 {
		return errors.New("load-image: needs NAME=BINARY")
	}
	c, err := cluster.Open(stateDir)
	if err != nil {
		return err
	}
	for _, arg := range flags.Args() {
		image, err := parseImage(arg)
		if err != nil {
			return err
		}
		image.User = *user
		if err := c.LoadImage(ctx, image); err != nil {
			return err
		}
		fmt.Fprintf(os.Stderr, "loaded %s\n", image.Names[0])
	}
	return nil
}

// parseImage reads NAME=BINARY[,FILE[:PATH]]... A file without a path lands in
// the root of the image.
func parseImage(arg string) (cluster.Image, error) {
	name, list, ok := strings.Cut(arg, "=")
	files := strings.Split(list, ",")
	if !ok || name == "" || files[0] == "" {
		return cluster.Image{}, fmt.Errorf("load-image %q: not of the form NAME=BINARY[,FILE[:PATH]]", arg)
	}
	var more []cluster.File
	for _, file := range files[1:] {
		source, path, ok := strings.Cut(file, ":")
		if !ok {
			path = "/" + filepath.Base(source)
		}
		more = append(more, cluster.File{Source: source, Path: path})
	}
	return cluster.BinaryImage(name, files[0], more...), nil
}

func loadConformanceImages(ctx context.Context, stateDir string, _ []string) error {
	c, err := cluster.Open(stateDir)
	if err != nil {
		return err
	}
	return c.LoadConformanceImages(ctx, os.Stderr)
}
