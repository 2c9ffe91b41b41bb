// Package e2e tests the whole system from outside: domains (`mimimi up`) and clients are processes of the built command, each with a folder of its own, and the
// tests see what a user sees: the command's output and exit codes, and what the HTTPS listeners answer.
//
// It shows that conversations work across two domains, that nothing is lost or shown twice when any process is killed at any moment, and that bad input is
// refused and changes nothing. It does not look into state, and it does not measure.
package e2e

import (
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"testing"
)

// binary is the built command.
var binary string

func TestMain(m *testing.M) {
	code, err := buildAndRun(m)
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		code = 1
	}
	os.Exit(code)
}

// buildAndRun builds the command once, with the race detector if the tests have it, and runs the tests.
func buildAndRun(m *testing.M) (code int, err error) {
	dir, err := os.MkdirTemp("", "mimimi-e2e-")
	if err != nil {
		return 1, err
	}
	defer func() { err = errors.Join(err, os.RemoveAll(dir)) }()
	binary = filepath.Join(dir, "mimimi")
	args := []string{"build", "-o", binary}
	if raceEnabled {
		args = append(args, "-race")
	}
	if out, err := exec.Command("go", append(args, "mimimi.example/cmd/mimimi")...).CombinedOutput(); err != nil {
		return 1, fmt.Errorf("build the command: %w\n%s", err, out)
	}
	return m.Run(), nil
}
