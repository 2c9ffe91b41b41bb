//go:build unix

package mls

import (
	"syscall"
	"time"
)

// processorTime returns the time that this process has spent on processors, all of them together.
func processorTime() time.Duration {
	var u syscall.Rusage
	if syscall.Getrusage(syscall.RUSAGE_SELF, &u) != nil {
		return 0
	}
	return time.Duration(u.Utime.Nano() + u.Stime.Nano())
}
