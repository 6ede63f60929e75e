//go:build race

package confine

// raceDetector tells that this binary keeps shadow memory, which no limit of memory allows.
const raceDetector = true
