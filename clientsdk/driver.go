//go:build !millrace_nodriver

package clientsdk

// The default driver. Build with -tags millrace_nodriver to leave it out of a
// program that brings its own.
import _ "modernc.org/sqlite"
