//go:build !race

package e2e

// raceEnabled says whether the tests, and so the command, run with the race detector.
const raceEnabled = false
