package main

import "testing"

func TestParseImage(t *testing.T) {
	image, err := parseImage("example.org/app:v1=/bin/app,/etc/a.conf:/etc/app/a.conf,b.conf")
	if err != nil {
		t.Fatal(err)
	}
	var paths []string
	for _, file := range image.Files {
		paths = append(paths, file.Path)
	}
	if len(paths) != 3 || paths[0] != "/app" || paths[1] != "/etc/app/a.conf" || paths[2] != "/b.conf" {
		t.Errorf("paths are %v", paths)
	}
	for _, arg := range []string{"", "app", "=app", "name="} {
		if _, err := parseImage(arg); err == nil {
			t.Errorf("%q is accepted", arg)
		}
	}
}
