package router_test

import (
	"bufio"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"os"
	"os/exec"
	"runtime"
	"runtime/debug"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"lyceum/platform/router"
	"lyceum/platform/rpc"
	"lyceum/platform/web"
)

const farEnv = "ROUTER_BENCH_FAR"

// usage is what a process used so far.
type usage struct{ CPU, Heap, Stack int64 }

func used() usage {
	var r syscall.Rusage
	_ = syscall.Getrusage(syscall.RUSAGE_SELF, &r)
	return usage{CPU: r.Utime.Nano() + r.Stime.Nano()}
}

func usedMemory() usage {
	debug.FreeOSMemory()
	var m runtime.MemStats
	runtime.ReadMemStats(&m)
	u := used()
	u.Heap, u.Stack = int64(m.HeapInuse), int64(m.StackInuse)
	return u
}

func benchNode(tb testing.TB) *rpc.Node {
	n, err := rpc.New(rpc.Options{Secret: []byte("a secret of the whole fleet")})
	if err != nil {
		tb.Fatal(err)
	}
	return n
}

func benchAnswer() json.RawMessage {
	return json.RawMessage(`{"next_batch":"s1","rooms":{"join":{"` +
		strings.Repeat(`!room:example.org":{"timeline":{"events":[{"type":"m.room.message","content":{"body":"hello"}}]}},"`, 15) + `":{}}}}`)
}

func benchRoutes(parked *atomic.Int64, release *atomic.Pointer[chan struct{}]) []web.Route {
	answer := benchAnswer()
	return []web.Route{
		{Pattern: "GET /sync", Auth: web.None, Role: "r", Key: web.KeyUser, Handler: func(*web.Request) (any, error) { return answer, nil }},
		{Pattern: "GET /poll", Auth: web.None, Role: "r", Key: web.KeyUser, Handler: func(r *web.Request) (any, error) {
			wait := *release.Load()
			parked.Add(1)
			select {
			case <-wait:
			case <-r.Context().Done():
			}
			return answer, nil
		}},
		{Pattern: "GET /release", Auth: web.None, Handler: func(*web.Request) (any, error) {
			next := make(chan struct{})
			parked.Store(0)
			close(*release.Swap(&next))
			return nil, nil
		}},
		{Pattern: "GET /parked", Auth: web.None, Handler: func(*web.Request) (any, error) { return parked.Load(), nil }},
		{Pattern: "GET /used", Auth: web.None, Handler: func(*web.Request) (any, error) { return used(), nil }},
		{Pattern: "GET /memory", Auth: web.None, Handler: func(*web.Request) (any, error) { return usedMemory(), nil }},
	}
}

// TestFarProcess is the process at the other end of BenchmarkHopBetweenProcesses.
func TestFarProcess(t *testing.T) {
	if os.Getenv(farEnv) == "" {
		t.Skip("a part of the benchmark")
	}
	var parked atomic.Int64
	var release atomic.Pointer[chan struct{}]
	first := make(chan struct{})
	release.Store(&first)
	s, err := web.New(web.Options{Log: slog.New(slog.DiscardHandler), Config: web.Config{Compress: true}})
	if err != nil {
		t.Fatal(err)
	}
	s.Add(benchRoutes(&parked, &release)...)
	n := benchNode(t)
	n.Fallback(s.Internal())
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	ctx, stop := context.WithCancel(context.Background())
	go func() {
		_, _ = io.Copy(io.Discard, os.Stdin) // until the parent goes
		stop()
	}()
	fmt.Printf("far %s\n", l.Addr())
	_ = n.Serve(ctx, l)
}

type farProcess struct {
	addr   string
	client *http.Client
}

func startFar(b *testing.B, client http.RoundTripper) *farProcess {
	command := exec.Command(os.Args[0], "-test.run=^TestFarProcess$")
	command.Env = append(os.Environ(), farEnv+"=1")
	in, _ := command.StdinPipe()
	out, _ := command.StdoutPipe()
	command.Stderr = os.Stderr
	if err := command.Start(); err != nil {
		b.Fatal(err)
	}
	b.Cleanup(func() {
		_ = in.Close()
		_ = command.Wait()
	})
	lines := bufio.NewReader(out)
	for {
		line, err := lines.ReadString('\n')
		if err != nil {
			b.Fatal(err)
		}
		if addr, ok := strings.CutPrefix(strings.TrimSpace(line), "far "); ok {
			return &farProcess{addr, &http.Client{Transport: client}}
		}
	}
}

func (f *farProcess) get(b *testing.B, path string, into any) {
	response, err := f.client.Get("https://" + f.addr + path)
	if err != nil {
		b.Fatal(err)
	}
	defer response.Body.Close()
	if err := json.NewDecoder(response.Body).Decode(into); err != nil {
		b.Fatal(err)
	}
}

// discardWriter is the writer of a client that is not there.
type discardWriter struct {
	header http.Header
	status int
	bytes  int
}

func (t *discardWriter) Header() http.Header { return t.header }
func (t *discardWriter) WriteHeader(s int)   { t.status = s }
func (t *discardWriter) Write(p []byte) (int, error) {
	t.bytes += len(p)
	return len(p), nil
}
func (t *discardWriter) Flush() {}

type fixedPlaces struct{ addr string }

func (f fixedPlaces) Route(string, string) (string, bool, bool) { return f.addr, f.addr == "", true }

func (f fixedPlaces) IsAlive(string) bool { return true }

func benchRequest(ctx context.Context, path string, i int) *http.Request {
	r, _ := http.NewRequestWithContext(ctx, "GET", "http://example.org"+path+"?since=s1_2_3&timeout=30000", nil)
	r.RemoteAddr = "127.0.0.1:4711"
	r.Header = http.Header{
		"Authorization": {fmt.Sprintf("Bearer token-%d", i)}, "Accept-Encoding": {"gzip"}, "User-Agent": {"Element/1.0 (Linux; Chrome 120)"},
		"Accept":          {"application/json"},
		"Accept-Language": {"en-GB"}, "Origin": {"https://app.example.org"}, "Referer": {"https://app.example.org/"},
		"Cache-Control": {"no-cache"},
	}
	return r
}

// BenchmarkHopBetweenProcesses gives the CPU time of both ends of a hop, without that of the client. "here" is the
// same without a hop.
func BenchmarkHopBetweenProcesses(b *testing.B) {
	for _, shape := range []string{"here", "hop1", "hop64", "poll1000"} {
		b.Run(shape, func(b *testing.B) {
			node := benchNode(b)
			other := startFar(b, benchNode(b).Transport())
			place := fixedPlaces{other.addr}
			if shape == "here" {
				place.addr = ""
			}
			log := slog.New(slog.DiscardHandler)
			r := router.New(router.Options{Directory: place, Transport: node.Transport(), Machine: 1, Log: log})
			s, err := web.New(web.Options{Log: log, Dispatch: r.Dispatch, Config: web.Config{Compress: true}})
			if err != nil {
				b.Fatal(err)
			}
			var parked atomic.Int64
			var release atomic.Pointer[chan struct{}]
			s.Add(benchRoutes(&parked, &release)...)
			h := s.Handler()
			one := func(path string, i int) {
				w := &discardWriter{header: http.Header{}}
				h.ServeHTTP(w, benchRequest(b.Context(), path, i))
				if w.status != 200 || w.bytes < 100 {
					b.Errorf("status %d, %d bytes", w.status, w.bytes)
				}
			}
			for i := range 100 {
				one("/sync", i)
			}
			var nearMemory, farMemory usage
			var before, after, farBefore, farAfter usage
			b.ReportAllocs()
			b.ResetTimer()
			other.get(b, "/used", &farBefore)
			before = used()
			done := 0
			switch shape {
			case "poll1000":
				for done < b.N {
					n := 1000
					done += n
					var wg sync.WaitGroup
					var near0, far0 usage
					if nearMemory.Heap == 0 {
						b.StopTimer()
						near0 = usedMemory()
						other.get(b, "/memory", &far0)
						before = used()
						farBefore = far0
						b.StartTimer()
					}
					for i := range n {
						wg.Go(func() { one("/poll", i) })
					}
					for count := 0; count < n; time.Sleep(20 * time.Millisecond) {
						other.get(b, "/parked", &count)
					}
					if nearMemory.Heap == 0 {
						b.StopTimer()
						t0 := used()
						var f0 usage
						other.get(b, "/used", &f0)
						nearMemory, farMemory = usedMemory(), usage{}
						other.get(b, "/memory", &farMemory)
						before.CPU += used().CPU - t0.CPU
						farBefore.CPU += farMemory.CPU - f0.CPU
						nearMemory.Heap, nearMemory.Stack = nearMemory.Heap-near0.Heap, nearMemory.Stack-near0.Stack
						farMemory.Heap, farMemory.Stack = farMemory.Heap-far0.Heap, farMemory.Stack-far0.Stack
						b.StartTimer()
					}
					var none struct{}
					other.get(b, "/release", &none)
					wg.Wait()
				}
			default:
				callers := 1
				if shape != "hop1" {
					callers = 64
				}
				var next atomic.Int64
				var wg sync.WaitGroup
				for range callers {
					wg.Go(func() {
						for i := next.Add(1); i <= int64(b.N); i = next.Add(1) {
							one("/sync", int(i))
						}
					})
				}
				wg.Wait()
				done = b.N
			}
			after = used()
			other.get(b, "/used", &farAfter)
			b.StopTimer()
			b.ReportMetric(float64(after.CPU-before.CPU)/float64(done)/1000, "near-µs/op")
			b.ReportMetric(float64(farAfter.CPU-farBefore.CPU)/float64(done)/1000, "far-µs/op")
			if nearMemory.Heap != 0 {
				b.ReportMetric(float64(nearMemory.Heap)/1000, "near-heap-B/parked")
				b.ReportMetric(float64(nearMemory.Stack)/1000, "near-stack-B/parked")
				b.ReportMetric(float64(farMemory.Heap)/1000, "far-heap-B/parked")
				b.ReportMetric(float64(farMemory.Stack)/1000, "far-stack-B/parked")
			}
		})
	}
}
