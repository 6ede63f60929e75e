package web_test

import (
	"bytes"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"runtime"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"lyceum/platform/conf"
	"lyceum/platform/web"
)

// TestWhatBodiesBecomeIsBounded: many callers whose small bodies become much in memory get what there is room for; the others are
// told to come again, and do when the first have ended.
func TestWhatBodiesBecomeIsBounded(t *testing.T) {
	const names, callers = 40_000, 40
	users := tokens{}
	for i := range callers {
		users[fmt.Sprint("u", i)] = &web.Identity{UserID: fmt.Sprintf("@u%d:x", i)}
	}
	var inside atomic.Int64
	release := make(chan struct{})
	address := listen(t, web.Options{Authenticator: users, Config: web.Config{MaxInFlight: conf.Size(64 << 20)}},
		web.Route{Pattern: "POST /names", Auth: web.User, Handler: web.JSON(func(_ *web.Request, body *struct {
			Names map[string][]string `json:"names"`
		},
		) (any, error) {
			if len(body.Names) > 1 {
				inside.Add(1)
				<-release
			}
			return map[string]int{"names": len(body.Names)}, nil
		})},
	)
	ended := sync.OnceFunc(func() { close(release) })
	t.Cleanup(ended)
	text := &strings.Builder{}
	for i := range names {
		fmt.Fprintf(text, `,"@u%d:x":[]`, i)
	}
	body := `{"names":{` + text.String()[1:] + `}}`
	type result struct {
		status int
		text   string
	}
	post := func(token, body string) result {
		request, _ := http.NewRequestWithContext(t.Context(), http.MethodPost, "http://"+address+"/names", strings.NewReader(body))
		request.Header.Set("Authorization", "Bearer "+token)
		response, err := http.DefaultClient.Do(request)
		if err != nil {
			return result{0, err.Error()}
		}
		defer response.Body.Close()
		text, _ := io.ReadAll(response.Body)
		return result{response.StatusCode, string(text)}
	}
	heap := func() int64 {
		runtime.GC()
		var m runtime.MemStats
		runtime.ReadMemStats(&m)
		return int64(m.HeapAlloc)
	}
	before := heap()
	results := make(chan result, callers)
	for i := range callers {
		go func() { results <- post(fmt.Sprint("u", i), body) }()
	}
	refused := 0
	for deadline := time.After(30 * time.Second); refused+int(inside.Load()) < callers; {
		select {
		case r := <-results:
			var answer struct {
				Retry int `json:"retry_after_ms"`
			}
			_ = json.Unmarshal([]byte(r.text), &answer)
			if r.status != 503 || answer.Retry == 0 {
				t.Fatalf("found %d %s", r.status, r.text)
			}
			refused++
		case <-time.After(10 * time.Millisecond):
		case <-deadline:
			t.Fatalf("%d are inside and %d were refused", inside.Load(), refused)
		}
	}
	held := heap() - before
	t.Logf("%d of %d bodies of %d bytes hold %d MiB", inside.Load(), callers, len(body), held>>20)
	if n := inside.Load(); n < 2 || held > 48<<20 {
		t.Errorf("%d bodies hold %d MiB, expected at least 2 and half of 64 MiB, with some for what is being written", n, held>>20)
	}
	if r := post("u0", `{"names":{"@a:x":[]}}`); r.status != 200 {
		t.Errorf("a small body is refused: %d %s", r.status, r.text)
	}
	ended()
	for range callers - refused {
		if r := <-results; r.status != 200 || !strings.Contains(r.text, fmt.Sprint(names)) {
			t.Errorf("found %d %s", r.status, r.text)
		}
	}
	for i := range 3 {
		if r := post(fmt.Sprint("u", i), body); r.status != 200 {
			t.Errorf("after they ended: %d %s", r.status, r.text)
		}
	}
}

// TestLargeBodiesTakeTheirLength: no more than their length, and what is read of them comes whole.
func TestLargeBodiesTakeTheirLength(t *testing.T) {
	address := listen(t, web.Options{}, big...)
	for _, n := range []int{0, 1, 64<<10 - 1, 64 << 10, 64<<10 + 1, 128 << 10, 3 << 20, 5<<20 + 17, 8 << 20} {
		for _, chunked := range []bool{false, true} {
			request, _ := http.NewRequestWithContext(
				t.Context(),
				http.MethodPost,
				"http://"+address+"/body",
				io.MultiReader(bytes.NewReader(make([]byte, n))),
			)
			if !chunked {
				request.ContentLength = int64(n)
			}
			response, err := http.DefaultClient.Do(request)
			if err != nil {
				t.Fatal(err)
			}
			text, _ := io.ReadAll(response.Body)
			_ = response.Body.Close()
			if response.StatusCode != 200 || !strings.Contains(string(text), fmt.Sprintf(`"n":%d`, n)) {
				t.Errorf("%d bytes, chunked %v: %d %s", n, chunked, response.StatusCode, text)
			}
		}
	}
}

// TestABodyOnItsWayTakesWhatHasCome: what has come of a large body is not copied to make room for more, and thrown away.
func TestABodyOnItsWayTakesWhatHasCome(t *testing.T) {
	const whole, piece = 15 << 20, 256 << 10
	address := listen(
		t,
		web.Options{},
		web.Route{Pattern: "POST /much", Auth: web.None, MaxBody: 16 << 20, Handler: func(r *web.Request) (any, error) {
			b, err := r.Raw()
			return len(b), err
		}},
	)
	allocated := func() uint64 {
		var m runtime.MemStats
		runtime.ReadMemStats(&m)
		return m.TotalAlloc
	}
	before := allocated()
	c := dial(t, address, fmt.Sprintf("POST /much HTTP/1.1\r\nHost: x\r\nContent-Length: %d\r\n\r\n", whole))
	for range whole/piece - 1 {
		if _, err := c.Write(make([]byte, piece)); err != nil {
			t.Fatal(err)
		}
	}
	sent := uint64(whole - piece)
	if took := allocated() - before - sent; took > 20<<20 { // without what this client made
		t.Errorf("%d MiB were allocated for %d MiB of a body", took>>20, sent>>20)
	}
}
