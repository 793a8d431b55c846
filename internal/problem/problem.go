// Package problem holds the one value in which the translators tell what a user
// wrote in vain: which object, which field, why, and what to do. The control
// plane turns it into Kubernetes events, towctl prints it.
//
// It may know nothing: no Kubernetes types, no clock, no logger.
package problem

import (
	"cmp"
	"fmt"
	"slices"
)

// Problem is one thing that a user wrote and that has no effect, or not the one
// to be expected. It is comparable: two equal values are the same problem.
type Problem struct {
	// Kind, Namespace and Name are the object's; Namespace is empty for a
	// cluster-scoped one.
	Kind, Namespace, Name string
	// Field is the path inside the object, like metadata.labels[towpath.io/mesh].
	Field string
	// Reason is one word in CamelCase, for events and for filtering.
	Reason string
	// Message says what is wrong and what to do about it.
	Message string
}

func (p Problem) String() string {
	name := p.Name
	if p.Namespace != "" {
		name = p.Namespace + "/" + p.Name
	}
	return fmt.Sprintf("%s %s: %s: %s (%s)", p.Kind, name, p.Field, p.Message, p.Reason)
}

// Sort orders problems by object and field.
func Sort(list []Problem) {
	slices.SortFunc(list, func(a, b Problem) int {
		return cmp.Or(cmp.Compare(a.Kind, b.Kind), cmp.Compare(a.Namespace, b.Namespace), cmp.Compare(a.Name, b.Name),
			cmp.Compare(a.Field, b.Field), cmp.Compare(a.Reason, b.Reason), cmp.Compare(a.Message, b.Message))
	})
}
