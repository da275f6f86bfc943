//go:build !race

package clientsdk

const raceDetector = false
