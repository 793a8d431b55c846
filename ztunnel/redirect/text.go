package redirect

import (
	"fmt"
	"strings"
)

// String prints the rules in the language of nft.
func (r Ruleset) String() string {
	var b strings.Builder
	fmt.Fprintf(&b, "table inet %s {\n", r.Table)
	sep := ""
	for _, s := range r.Sets {
		b.WriteString(sep + s.String())
		sep = "\n"
	}
	for _, c := range r.Chains {
		b.WriteString(sep + c.String())
		sep = "\n"
	}
	b.WriteString("}\n")
	return b.String()
}

func (s Set) String() string {
	kind := "ipv4_addr"
	if s.IPv6 {
		kind = "ipv6_addr"
	}
	return fmt.Sprintf("\tset %s {\n\t\ttype %s\n\t}\n", s.Name, kind)
}

func (c Chain) String() string {
	var b strings.Builder
	fmt.Fprintf(&b, "\tchain %s {\n", c.Name)
	fmt.Fprintf(&b, "\t\ttype %s hook %s priority %s; policy accept;\n", c.Type, c.Hook, priorityName(c.Priority, c.Hook))
	for _, r := range c.Rules {
		fmt.Fprintf(&b, "\t\t%s\n", r)
	}
	b.WriteString("\t}\n")
	return b.String()
}

func (r Rule) String() string {
	var words []string
	for _, m := range r.Matches {
		words = append(words, m.String())
	}
	return strings.Join(append(words, r.Action.String()), " ")
}

// priorityName names a priority as nft does: by the nearest standard one.
func priorityName(p int, hook Hook) string {
	name, base := "mangle", priorityMangle
	switch {
	case hook == Postrouting:
		name, base = "srcnat", prioritySrcNAT
	case p == priorityDstNAT && hook == Prerouting:
		name, base = "dstnat", priorityDstNAT
	case p == priorityDstNAT:
		return fmt.Sprint(p) // nft has no name for it in output
	}
	if p == base {
		return name
	}
	if p < base {
		return fmt.Sprintf("%s - %d", name, base-p)
	}
	return fmt.Sprintf("%s + %d", name, p-base)
}
