package suite

import (
	"flag"
	"os"
	"path/filepath"
	"testing"

	"sigs.k8s.io/gateway-api/conformance"
	confv1 "sigs.k8s.io/gateway-api/conformance/apis/v1"
	conformancesuite "sigs.k8s.io/gateway-api/conformance/utils/suite"
	"sigs.k8s.io/gateway-api/pkg/features"
	"sigs.k8s.io/yaml"
)

// claimed are the extended features that work. Core features are added by the
// suite for each profile.
var claimed = []features.FeatureName{
	features.SupportMeshClusterIPMatching,
	features.SupportMeshConsumerRoute,
	features.SupportMeshHTTPRouteRewritePath,
	features.SupportMeshHTTPRouteSchemeRedirect,
	features.SupportMeshHTTPRouteRedirectPort,
	features.SupportMeshHTTPRouteRedirectPath,
	features.SupportMeshHTTPRouteBackendRequestHeaderModification,
	features.SupportMeshHTTPRouteQueryParamMatching,
	features.SupportMeshHTTPRouteNamedRouteRule,
}

var profiles = []conformancesuite.ConformanceProfileName{
	conformancesuite.MeshHTTPConformanceProfileName,
	conformancesuite.MeshGRPCConformanceProfileName,
}

var (
	reportDir = flag.String("report-dir", "", "directory to write the report to")
	version   = flag.String("towpath-version", "dev", "version of Towpath that is tested")
)

func TestConformance(t *testing.T) {
	if os.Getenv("KUBECONFIG") == "" {
		t.Fatal("KUBECONFIG is not set: the suite needs a cluster with Towpath installed (make conformance)")
	}
	opts := conformance.DefaultOptions(t)
	opts.GatewayClassName = ""
	opts.SupportedFeatures = claimed
	opts.ConformanceProfiles = profiles
	opts.NamespaceLabels = map[string]string{"towpath.io/mesh": "enabled"}
	opts.Implementation = confv1.Implementation{
		Organization: "towpath-mesh",
		Project:      "towpath",
		URL:          "https://github.com/towpath-mesh/towpath",
		Version:      *version,
		Contact:      []string{"https://github.com/towpath-mesh/towpath/issues"},
	}
	path := filepath.Join(t.TempDir(), "report.yaml")
	if *reportDir != "" {
		path = filepath.Join(*reportDir, "standard-"+*version+"-default-report.yaml")
	}
	opts.ReportOutputPath = path
	// Registered before the suite's own clean-up, so that it runs after the
	// report was written.
	t.Cleanup(func() { checkReport(t, path) })
	conformance.RunConformanceWithOptions(t, opts)
}

// checkReport fails on what a green test run does not show: a profile that is
// only partly tested, or a test that was skipped.
func checkReport(t *testing.T, path string) {
	raw, err := os.ReadFile(path)
	if err != nil {
		t.Errorf("no report: %v", err)
		return
	}
	var r confv1.ConformanceReport
	if err := yaml.Unmarshal(raw, &r); err != nil {
		t.Errorf("report: %v", err)
		return
	}
	if len(r.ProfileReports) != len(profiles) {
		t.Errorf("report has %d profiles, want %d", len(r.ProfileReports), len(profiles))
	}
	for _, p := range r.ProfileReports {
		check(t, p.Name+" core", p.Core)
		if p.Extended != nil {
			check(t, p.Name+" extended", p.Extended.Status)
		}
	}
}

func check(t *testing.T, name string, s confv1.Status) {
	if s.Result != confv1.Success || s.Failed > 0 || s.Skipped > 0 {
		t.Errorf("%s: result %s, %d failed %v, %d skipped %v", name, s.Result, s.Failed, s.FailedTests, s.Skipped, s.SkippedTests)
	}
	t.Logf("%s: %s, %d passed", name, s.Result, s.Passed)
}
