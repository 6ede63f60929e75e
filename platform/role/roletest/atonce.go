package roletest

import "sync"

// AtOnce calls fn with 0 to n-1 from goroutines that begin together, and waits.
func AtOnce(n int, fn func(i int)) {
	var ready, done sync.WaitGroup
	ready.Add(n)
	for i := range n {
		done.Go(func() {
			ready.Done()
			ready.Wait()
			fn(i)
		})
	}
	done.Wait()
}
