package router_test

import (
	"fmt"
	"io"
	"net"
	"strings"
	"testing"
	"time"
)

// failed is how many hops count as failed.
func (n *node) failed(t *testing.T) (total float64) {
	families, err := n.registry.Gather()
	if err != nil {
		t.Fatal(err)
	}
	for _, family := range families {
		for _, m := range family.Metric {
			for _, label := range m.Label {
				if label.GetValue() == "failed" {
					total += m.Counter.GetValue()
				}
			}
		}
	}
	return total
}

// raw sends bytes, ends its side when half is set, and gives what comes until the server closes the connection.
func (n *node) raw(t *testing.T, request string, half bool) (answer string, took time.Duration) {
	t.Helper()
	conn, err := net.Dial("tcp", n.public.Listener.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	start := time.Now()
	_ = conn.SetDeadline(start.Add(20 * time.Second))
	go func() {
		_, _ = io.WriteString(conn, request) // the server may have had enough
		if half {
			_ = conn.(*net.TCPConn).CloseWrite()
		}
	}()
	text, _ := io.ReadAll(conn) // what came before a reset counts
	return string(text), time.Since(start)
}

// A body that can not be read is its client's fault, wherever the request is served, and not that of the process that it is
// passed to.
func TestABodyThatCanNotBeRead(t *testing.T) {
	overBoth(t, func(t *testing.T, a, b *node) {
		chunked := "Transfer-Encoding: chunked\r\n\r\n"
		for name, body := range map[string]string{
			"hexadecimal prefix": chunked + "0x5\r\nabcde\r\n0\r\n\r\n", "no size": chunked + "zz\r\n", "long extension": chunked + "5;" +
				strings.Repeat("a", 100_000) + "\r\nabcde\r\n0\r\n\r\n",
			"bare line ends": chunked + "5\nabcde\n0\n\n", "second chunk": chunked + "3\r\nabc\r\nzz\r\n",
			"cut": "Content-Length: 500\r\n\r\nabcde", "cut in a chunk": chunked + "40\r\nabcde",
		} {
			for _, method := range []string{"POST", "PUT"} {
				request := method + " /hold/k HTTP/1.1\r\nHost: x\r\n" + body
				for _, place := range []string{"", b.addr()} {
					a.places.send(place)
					answer, took := a.raw(t, request, strings.HasPrefix(name, "cut"))
					if !strings.HasPrefix(answer, "HTTP/1.1 400 ") || !strings.Contains(answer, "M_NOT_JSON") || took > 3*time.Second {
						t.Errorf("%s, %s at %q: %q after %s", name, method, place, answer, took)
					}
				}
			}
			answer, _ := a.raw(t, "POST /limited HTTP/1.1\r\nHost: x\r\n"+body, strings.HasPrefix(name, "cut"))
			if !strings.HasPrefix(answer, "HTTP/1.1 400 ") || !strings.Contains(answer, "M_UNKNOWN") {
				t.Errorf("%s, a file: %q", name, answer)
			}
			for len(b.waiting) > 0 {
				<-b.waiting
			}
		}
		conn, err := net.Dial("tcp", a.public.Listener.Addr().String())
		if err != nil {
			t.Fatal(err)
		}
		_, _ = io.WriteString(conn, "POST /hold/k HTTP/1.1\r\nHost: x\r\nContent-Length: 500\r\n\r\nabcde")
		time.Sleep(50 * time.Millisecond)
		_ = conn.Close()
		if answer, _ := a.call(t, "POST /see/k", strings.NewReader("{}")); answer.Node != b.name {
			t.Errorf("a good request was served by %+v", answer)
		}
		if n := a.failed(t); n != 0 {
			t.Errorf("%v hops count as failed", n)
		}
		if n := a.probes.Load(); n != 0 {
			t.Errorf("the other process was suspected %d times", n)
		}
	})
}

// A body that is too large is refused before any of it is passed on, and nobody waits for the rest.
func TestABodyThatIsTooLarge(t *testing.T) {
	overBoth(t, func(t *testing.T, a, b *node) {
		for name, body := range map[string]string{
			"said":       fmt.Sprintf("Content-Length: %d\r\n\r\nabcde", 2<<20),
			"absurd":     "Content-Length: 9000000000000000000\r\n\r\nabcde",
			"as it came": "Transfer-Encoding: chunked\r\n\r\n200000\r\n" + strings.Repeat("x", 2<<20),
		} {
			for _, place := range []string{"", b.addr()} {
				a.places.send(place)
				answer, took := a.raw(t, "POST /see/k HTTP/1.1\r\nHost: x\r\n"+body, false)
				if !strings.HasPrefix(answer, "HTTP/1.1 413 ") || !strings.Contains(answer, "M_TOO_LARGE") || took > 3*time.Second {
					t.Errorf("%s at %q: %q after %s", name, place, answer, took)
				}
			}
		}
		if failed, probes := a.failed(t), a.probes.Load(); failed != 0 || probes != 0 {
			t.Errorf("%v hops count as failed, and %d probes were sent", failed, probes)
		}
	})
}

// A POST whose route says that it may be done twice is done here when the process that worked on it is lost.
func TestAnIdempotentPostIsDoneAgain(t *testing.T) {
	overBoth(t, func(t *testing.T, a, b *node) {
		a.places.send(b.addr())
		if answer, response := a.call(t, "POST /again", strings.NewReader("{}")); response.StatusCode != 200 || answer.Node != a.name ||
			answer.Body != "{}" {
			t.Errorf("%d %+v", response.StatusCode, answer)
		}
	})
}
