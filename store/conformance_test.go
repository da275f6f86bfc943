package store_test

import (
	"github.com/millrace/millrace/decoder"
	"github.com/millrace/millrace/store"
)

// The store knows neither name; only here are they held together.
var (
	_ decoder.Sink     = (*store.Writer)(nil)
	_ decoder.Registry = (*store.Writer)(nil)
)
