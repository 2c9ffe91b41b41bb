package mls

import (
	"runtime"
	"sync"
	"sync/atomic"
)

// minParallel is the number of public-key operations below which starting goroutines costs more than it saves.
const minParallel = 4

// parallel calls f for 0 to n-1 on at most GOMAXPROCS goroutines and returns when all have returned. It returns the error
// of the lowest index among those that ran; after an error no more are started.
func parallel(n int, f func(i int) error) error {
	workers := min(n, runtime.GOMAXPROCS(0))
	if n < minParallel || workers < 2 {
		for i := range n {
			if err := f(i); err != nil {
				return err
			}
		}
		return nil
	}
	var next atomic.Int64
	var stop atomic.Bool
	var wg sync.WaitGroup
	errs := make([]error, n)
	for range workers {
		wg.Go(func() {
			for !stop.Load() {
				i := int(next.Add(1)) - 1
				if i >= n {
					return
				}
				if errs[i] = f(i); errs[i] != nil {
					stop.Store(true)
				}
			}
		})
	}
	wg.Wait()
	for _, err := range errs {
		if err != nil {
			return err
		}
	}
	return nil
}
