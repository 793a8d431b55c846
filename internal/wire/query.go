package wire

import "strings"

// QueryValue returns the value of the first parameter of that name in a query
// of the form name=value&name=value, both decoded ("+" is a space). What cannot
// be decoded is taken as it stands.
func QueryValue(query, name string) (string, bool) {
	for query != "" {
		var pair string
		pair, query, _ = strings.Cut(query, "&")
		key, value, _ := strings.Cut(pair, "=")
		if pair != "" && decodeParameter(key) == name {
			return decodeParameter(value), true
		}
	}
	return "", false
}

func decodeParameter(s string) string {
	if !strings.ContainsAny(s, "%+") {
		return s
	}
	out := make([]byte, 0, len(s))
	for i := 0; i < len(s); i++ {
		switch s[i] {
		case '+':
			out = append(out, ' ')
		case '%':
			c, ok := unhex(s, i+1)
			if !ok {
				return s
			}
			out = append(out, c)
			i += 2
		default:
			out = append(out, s[i])
		}
	}
	return string(out)
}
