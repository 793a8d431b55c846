package mesh

import "testing"

func TestEnrolsNamespace(t *testing.T) {
	for _, c := range []struct {
		name, label   string
		want, problem bool
	}{
		{"shop", "enabled", true, false},
		{"shop", "disabled", false, false},
		{"shop", "", false, false},
		{"shop", "true", false, true},
		{"kube-system", "enabled", false, true},
		{"kube-system", "", false, false},
		{"towpath-system", "enabled", false, true},
	} {
		got, problem := EnrolsNamespace(c.name, "towpath-system", c.label)
		if got != c.want || (problem != "") != c.problem {
			t.Errorf("EnrolsNamespace(%q, %q) = %v, %q", c.name, c.label, got, problem)
		}
	}
}
