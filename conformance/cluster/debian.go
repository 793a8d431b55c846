package cluster

import (
	"context"
	"fmt"
	"io"
	"os"
	"os/exec"
	"strings"
	"time"
)

// debianPackages maps a file that must exist to the package that has it. Only
// portmap uses iptables, for pods with host ports; tcpdump is for captures.
var debianPackages = []struct{ file, name string }{
	{"/usr/sbin/runc", "runc"},
	{debianPluginDir + "/ptp", "containernetworking-plugins"},
	{"/usr/sbin/nft", "nftables"},
	{"/usr/sbin/iptables", "iptables"},
	{"/usr/sbin/sysctl", "procps"},
	{"/usr/bin/nsenter", "util-linux"},
	{"/usr/bin/tcpdump", "tcpdump"},
	{"/usr/sbin/conntrack", "conntrack"},
}

// installPackages installs the Debian packages that are missing.
func installPackages(ctx context.Context, log io.Writer) error {
	var missing []string
	for _, p := range debianPackages {
		if !exists(p.file) {
			missing = append(missing, p.name)
		}
	}
	if _, err := exec.LookPath("ip"); err != nil {
		missing = append(missing, "iproute2")
	}
	if len(missing) == 0 {
		return nil
	}
	names := strings.Join(missing, " ")
	if _, err := exec.LookPath("apt-get"); err != nil {
		return fmt.Errorf("install %s: only Debian's apt-get is known here: %w", names, err)
	}
	fmt.Fprintf(log, "install Debian packages: %s\n", names)
	ctx, cancel := context.WithTimeout(ctx, 5*time.Minute)
	defer cancel()
	// Package lists may be missing or old: fetch them only if it fails without.
	if aptInstall(ctx, missing) == nil {
		return nil
	}
	if err := apt(ctx, "update", "-q"); err != nil {
		return err
	}
	return aptInstall(ctx, missing)
}

func aptInstall(ctx context.Context, names []string) error {
	return apt(ctx, append([]string{"install", "-y", "-q", "--no-install-recommends"}, names...)...)
}

func apt(ctx context.Context, args ...string) error {
	cmd := exec.CommandContext(ctx, "apt-get", args...)
	cmd.Env = append(os.Environ(), "DEBIAN_FRONTEND=noninteractive")
	if out, err := cmd.CombinedOutput(); err != nil {
		return fmt.Errorf("apt-get %s: %w: %s", strings.Join(args, " "), err, lastLine(string(out)))
	}
	return nil
}
