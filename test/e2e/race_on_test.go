//go:build race

package e2e

// raceEnabled says whether the tests, and so the command, run with the race detector, which makes everything some times slower.
const raceEnabled = true
