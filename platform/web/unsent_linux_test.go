package web_test

import (
	"io"
	"net"
	"testing"
	"time"

	"lyceum/platform/conf"
	"lyceum/platform/web"
)

// TestASlowReaderIsNoneThatStandsStill: one that takes the pieces in half of the time that they may take gets all, also when the
// kernel would take megabytes ahead of it.
func TestASlowReaderIsNoneThatStandsStill(t *testing.T) {
	t.Parallel()
	const deadline = 600 * time.Millisecond // for each 64 KiB
	address := listen(t, web.Options{Config: web.Config{SendTimeout: conf.Duration(deadline), MaxInFlight: 1 << 30}}, big...)
	for _, path := range []string{"/big", "/stream"} {
		t.Run(path, func(t *testing.T) {
			t.Parallel()
			c := dial(t, address, "")
			if err := c.(*net.TCPConn).SetReadBuffer(paceSize); err != nil {
				t.Fatal(err)
			}
			if _, err := io.WriteString(c, "GET "+path+" HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n"); err != nil {
				t.Fatal(err)
			}
			buffer := make([]byte, paceSize)
			for n := 0; n < 6<<20; {
				k, err := io.ReadFull(c, buffer)
				if n += k; err != nil {
					t.Fatalf("cut after %d bytes: %v", n, err)
				}
				time.Sleep(deadline / 6)
			}
		})
	}
}
