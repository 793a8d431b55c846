package mesh

import "fmt"

// EnrolsNamespace reports whether a Namespace with that value of LabelMesh
// takes its pods into the mesh. system is where Towpath itself is installed;
// there and in kube-system nothing is ever enrolled, because what the mesh
// itself needs to work must not wait for the mesh. problem, when not empty, is
// why the label has not the effect that its author may expect.
func EnrolsNamespace(name, system, label string) (enrolled bool, problem string) {
	switch label {
	case "", MeshDisabled:
		return false, ""
	case MeshEnabled:
		if name == system || name == "kube-system" {
			return false, fmt.Sprintf("namespace %s is never taken into the mesh: remove the label", name)
		}
		return true, ""
	default:
		return false, fmt.Sprintf("%q is neither %q nor %q: treated as not set", label, MeshEnabled, MeshDisabled)
	}
}
