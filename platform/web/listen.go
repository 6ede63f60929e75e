package web

import (
	"fmt"
	"net"
	"os"
	"strconv"
)

// firstHandedFile is the descriptor of the first socket that a supervisor hands over (sd_listen_fds(3)).
const firstHandedFile = 3

// Listen opens the public listener: the socket that systemd or lyceum up handed to this process in LISTEN_FDS, so
// that a restart closes nothing, else a fresh one at address.
func Listen(address string) (net.Listener, error) {
	count, pid := os.Getenv("LISTEN_FDS"), os.Getenv("LISTEN_PID")
	if count == "" || pid != "" && pid != strconv.Itoa(os.Getpid()) {
		return net.Listen("tcp", address)
	}
	if count != "1" {
		return nil, fmt.Errorf("LISTEN_FDS: expected one socket, found %q", count)
	}
	file := os.NewFile(firstHandedFile, "handed listener")
	defer file.Close() // FileListener has a copy
	l, err := net.FileListener(file)
	if err != nil {
		return nil, fmt.Errorf("the socket that was handed over can not be used: %w", err)
	}
	return l, nil
}
