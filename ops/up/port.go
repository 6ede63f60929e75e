package up

import (
	"errors"
	"fmt"
	"math/rand/v2"
	"net"
	"sync"
	"time"
)

// givenPorts are the ports that FreePort gave out, and when: who has one may not listen yet.
var givenPorts = struct {
	mu sync.Mutex
	at map[int]time.Time
}{at: map[int]time.Time{}}

// portKept is how long a port that was given out is not given to another.
const portKept = 10 * time.Minute

// FreePort finds a loopback port for a process that listens later, and again after each restart. It lies below the
// range from which systems take the ports of outgoing connections (Linux: 32768 and up): one of those may be in use
// by the time it is needed.
func FreePort() (int, error) {
	givenPorts.mu.Lock()
	defer givenPorts.mu.Unlock()
	for range 200 {
		port := 20_000 + rand.IntN(12_000)
		if time.Since(givenPorts.at[port]) < portKept {
			continue
		}
		l, err := net.Listen("tcp", fmt.Sprintf("127.0.0.1:%d", port))
		if err == nil {
			givenPorts.at[port] = time.Now()
			return port, l.Close()
		}
	}
	return 0, errors.New("no free port was found from 20000 to 31999 on 127.0.0.1")
}
