//go:build race

package clientsdk

// raceDetector slows SQLite in Go down by more than ten times.
const raceDetector = true
