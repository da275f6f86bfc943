package syncrules

import (
	"bytes"
	"reflect"

	"go.yaml.in/yaml/v4"
)

// SameContent tells whether two rules files say the same: they are equal, or
// differ in comments, layout and the order of keys only. Files that are not YAML
// are the same only if they are equal.
func SameContent(a, b []byte) bool {
	if bytes.Equal(a, b) {
		return true
	}
	if len(a) > maxFileBytes || len(b) > maxFileBytes {
		return false
	}
	var x, y any
	if yaml.Unmarshal(a, &x) != nil || yaml.Unmarshal(b, &y) != nil {
		return false
	}
	return x != nil && reflect.DeepEqual(x, y)
}
