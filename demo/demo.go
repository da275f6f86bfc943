// Package demo holds the to-do demo's schema, data and sync rules: the files
// that `millrace dev`, compose.yaml and the tests share.
package demo

import _ "embed"

var (
	// Schema makes the demo's tables in an empty source database.
	//
	//go:embed schema.sql
	Schema string

	// Seed fills them: 8 users (alice and bob among them), 40 lists, 400 todos,
	// the same rows every time.
	//
	//go:embed seed.sql
	Seed string

	// Rules give a user the lists they own or are a member of, with their
	// todos and members.
	//
	//go:embed sync.yaml
	Rules string
)
