package millrace

import "strings"

// BucketID is the sidecar's number for a (definition, logical name) pair.
type BucketID int64

// WireBucketName joins a definition's wire prefix and a logical bucket name
// into the name clients see.
func WireBucketName(wirePrefix, logical string) string { return wirePrefix + "#" + logical }

// SplitWireBucketName undoes WireBucketName. ok is false if there is no prefix.
func SplitWireBucketName(wire string) (wirePrefix, logical string, ok bool) {
	return strings.Cut(wire, "#")
}
