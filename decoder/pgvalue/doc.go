// Package pgvalue turns values in Postgres's text format into the SQLite
// values that rules work on: (type, options) gives a Converter, text gives a
// millrace.Value. It also gives row keys, and upper bounds of what a row takes
// on disk.
//
// The texts must come from a session with the settings of package session
// (DateStyle ISO, TimeZone UTC, bytea_output hex, …).
//
// It does no I/O: types that are not built in are described by the caller.
//
// Where the text form could be converted in several ways, these hold:
//   - box arrays are split at ";", their delimiter, also without CustomTypes;
//   - offsets with seconds (+05:41:16) are converted, not dropped;
//   - numbers that JSON does not know become null inside JSON texts.
package pgvalue
