package media_test

import (
	"bytes"
	"context"
	"encoding/binary"
	"fmt"
	"hash/crc32"
	"image"
	"image/color"
	"image/png"
	"io"
	"math/rand/v2"
	"os"
	"runtime"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"lyceum/media"
	"lyceum/platform/blob"
	"lyceum/platform/conf"
	"lyceum/platform/db"
	"lyceum/platform/engines/enginestest"
	"lyceum/platform/role"
	"lyceum/platform/role/roletest"
	"lyceum/platform/web"
	"lyceum/platform/web/webtest"
)

// TestMain plays the worker when it is started as one, and the ways in which a worker can fail.
func TestMain(m *testing.M) {
	if len(os.Args) > 1 {
		switch os.Args[1] {
		case media.WorkerCommand:
			if err := media.WorkerMain(os.Stdin, os.Stdout); err != nil {
				os.Stderr.WriteString(err.Error())
				os.Exit(1)
			}
			os.Exit(0)
		case "crash":
			panic("as asked")
		case "hang":
			time.Sleep(time.Hour)
		}
	}
	os.Exit(m.Run())
}

const (
	upload   = "POST /_matrix/media/v3/upload"
	download = "GET /_matrix/client/v1/media/download/"
	thumb    = "GET /_matrix/client/v1/media/thumbnail/"
)

type node struct {
	*webtest.Client
	t     *testing.T
	store blob.Store
	p     *role.Process

	routes []web.Route
}

var people = webtest.People{
	"a": {UserID: "@a:here.test", DeviceID: "A"}, "b": {UserID: "@b:here.test"}, "g": {UserID: "@g:here.test", Guest: true},
}

// run runs body on each database, with the directory under SQLite and S3 under PostgreSQL.
func run(t *testing.T, c media.Config, deps media.Deps, body func(t *testing.T, n *node)) {
	t.Helper()
	var store blob.Store
	roletest.Run(t, []db.Migrations{media.Migrations()}, func(p *role.Process) *media.Media {
		var err error
		if p.DB.Postgres() {
			s3 := enginestest.TestS3(t)
			store, err = blob.OpenS3(t.Context(), blob.S3Config{
				Endpoint: s3.Endpoint, Region: s3.Region, Bucket: s3.Bucket, AccessKey: s3.AccessKey,
				SecretKey: conf.Secret(s3.SecretKey), PathStyle: true, Retries: 3,
			})
		} else {
			store, err = blob.OpenDirectory(t.TempDir())
		}
		if err != nil {
			t.Fatal(err)
		}
		deps.Process, deps.Blob, deps.ServerName = p, store, "here.test"
		m, err := media.New(deps, c)
		if err != nil {
			t.Fatal(err)
		}
		return m
	}, func(t *testing.T, p *role.Process, m *media.Media) {
		body(t, &node{webtest.New(t, people, m.Routes()...).As("a"), t, store, p, m.Routes()})
	})
}

// put uploads a file and returns "here.test/<media id>".
func (n *node) put(data []byte, query, contentType string) string {
	n.t.Helper()
	a := n.Call(upload+query, data, "Content-Type: "+contentType)
	if a.Status != 200 {
		n.t.Fatalf("upload: %d %s", a.Status, a.Body)
	}
	return strings.TrimPrefix(a.Get("content_uri").String(), "mxc://")
}

func picture(w, h int) []byte {
	img := image.NewNRGBA(image.Rect(0, 0, w, h))
	for i := range img.Pix {
		img.Pix[i] = byte(i / 1000)
		if i%4 == 3 {
			img.Pix[i] = 255
		}
	}
	img.Set(0, 0, color.White)
	var b bytes.Buffer
	if err := png.Encode(&b, img); err != nil {
		panic(err)
	}
	return b.Bytes()
}

// bomb is a small PNG that says it has w x h pixels.
func bomb(w, h uint32) []byte {
	data := picture(10, 10)
	binary.BigEndian.PutUint32(data[16:], w)
	binary.BigEndian.PutUint32(data[20:], h)
	binary.BigEndian.PutUint32(data[29:], crc32.ChecksumIEEE(data[12:29]))
	return data
}

func TestUploadAndDownload(t *testing.T) {
	run(t, media.Config{}, media.Deps{}, func(t *testing.T, n *node) {
		if got := n.As("").Call(upload, "x").Errcode(); got != "M_MISSING_TOKEN" {
			t.Errorf("without a token: %s", got)
		}
		id := n.put([]byte("hello world"), "?filename=na%C3%AFve.txt", "text/plain; charset=utf-8")
		a := n.Call(download+id, nil)
		if string(a.Body) != "hello world" || a.Header.Get("Content-Type") != "text/plain; charset=utf-8" {
			t.Errorf("%q %v", a.Body, a.Header)
		}
		if got := a.Header.Get("Content-Disposition"); got != "inline; filename*=utf-8''na%C3%AFve.txt" {
			t.Errorf("disposition %q", got)
		}
		for _, name := range []string{"Content-Security-Policy", "Cross-Origin-Resource-Policy", "Etag"} {
			if a.Header.Get(name) == "" {
				t.Errorf("no %s", name)
			}
		}
		if got := n.Call(download+id+"/other.txt", nil).Header.Get("Content-Disposition"); got != "inline; filename=other.txt" {
			t.Errorf("given name: %q", got)
		}
		if a := n.Call(download+id, nil, "If-None-Match: "+a.Header.Get("Etag")); a.Status != 304 || len(a.Body) > 0 {
			t.Errorf("etag: %d %q", a.Status, a.Body)
		}
		for _, c := range []struct {
			asked  string
			status int
			part   string // the Content-Range
			body   string
		}{
			{"bytes=6-", 206, "bytes 6-10/11", "world"},
			{"bytes=0-4", 206, "bytes 0-4/11", "hello"},
			{"bytes=6-99", 206, "bytes 6-10/11", "world"},
			{"bytes=-5", 206, "bytes 6-10/11", "world"},
			{"bytes=-99", 206, "bytes 0-10/11", "hello world"},
			{"bytes=0-99999999999999999999", 206, "bytes 0-10/11", "hello world"},
			{"bytes= 6 - 99999999999999999999 ", 206, "bytes 6-10/11", "world"},
			{"bytes=-99999999999999999999", 206, "bytes 0-10/11", "hello world"},
			{"bytes=0-9223372036854775807", 206, "bytes 0-10/11", "hello world"},
			{"bytes=99-", 416, "bytes */11", ""},
			{"bytes=11-", 416, "bytes */11", ""},
			{"bytes=99999999999999999999-", 416, "bytes */11", ""},
			{"bytes=-0", 416, "bytes */11", ""},
			{"bytes=-00", 416, "bytes */11", ""},
			{"bytes=-0,0-4", 206, "bytes 0-4/11", "hello"},
			{"bytes=5-4", 416, "", ""},
			{"bytes=-", 416, "", ""},
			{"bytes=x-", 416, "", ""},
			{"bytes=--99999999999999999999", 416, "", ""},
		} {
			a := n.Call(download+id, nil, "Range: "+c.asked)
			if a.Status != c.status || a.Header.Get("Content-Range") != c.part || c.status == 206 && string(a.Body) != c.body {
				t.Errorf("range %q: found %d %q %q", c.asked, a.Status, a.Header.Get("Content-Range"), a.Body)
			}
		}
		html := n.put([]byte("<script>"), "", "text/html")
		if got := n.Call(download+html, nil).Header.Get("Content-Disposition"); got != "attachment" {
			t.Errorf("html: %q", got)
		}
		if html != id && n.put([]byte("hello world"), "", "") == id {
			t.Error("two uploads have one id")
		}
		blobs, err := n.store.List(t.Context(), "media/", "", 10)
		if err != nil || len(blobs) != 2 {
			t.Errorf("%d blobs for two contents, %v", len(blobs), err)
		}
		if got := n.As("g").Call(download+id, nil).Status; got != 200 {
			t.Errorf("a guest: %d", got)
		}
		_, mine, _ := strings.Cut(id, "/")
		for _, wrong := range []string{"other.test/" + mine, "here.test/nothing", "here.test/..%2f..%2fetc"} {
			if a := n.Call(download+wrong, nil); a.Status != 404 || a.Errcode() != "M_NOT_FOUND" {
				t.Errorf("%s: %d %s", wrong, a.Status, a.Body)
			}
		}
		if a := n.As("").Call("GET /_matrix/media/v3/download/"+id, nil); a.Status != 404 || a.Errcode() != "M_NOT_FOUND" {
			t.Errorf("frozen: %d %s", a.Status, a.Body)
		}
		// Who says who they are gets it under the old paths too.
		for _, who := range []string{"a", "g"} {
			for _, path := range []string{"download/" + id, "download/" + id + "/name.txt"} {
				if a := n.As(who).Call("GET /_matrix/media/v3/"+path, nil); a.Status != 200 || string(a.Body) != "hello world" {
					t.Errorf("%s with the token of %s: %d %s", path, who, a.Status, a.Body)
				}
			}
		}
		if a := n.As("").Call("GET /_matrix/media/v3/download/"+id+"?access_token=a", nil); a.Status != 200 {
			t.Errorf("a token in the query: %d %s", a.Status, a.Body)
		}
		if a := n.As("").Call("GET /_matrix/media/v3/thumbnail/"+id+"?width=8&height=8", nil); a.Status != 404 {
			t.Errorf("frozen thumbnail: %d %s", a.Status, a.Body)
		}
		if a := n.As("nobody").Call("GET /_matrix/media/v3/download/"+id, nil); a.Status != 401 {
			t.Errorf("a wrong token: %d %s", a.Status, a.Body)
		}
		if got := n.Call("GET /_matrix/client/v1/media/config", nil).Get("m\\.upload\\.size").Int(); got != 50<<20 {
			t.Errorf("upload size %d", got)
		}
	})
}

func TestOpenAndRedirected(t *testing.T) {
	run(t, media.Config{AllowUnauthenticated: true, AllowRedirect: true}, media.Deps{}, func(t *testing.T, n *node) {
		id := n.put([]byte("x"), "", "text/plain")
		for _, who := range []string{"", "a", "g", "nobody knows this token"} {
			if a := n.As(who).Call("GET /_matrix/media/v3/download/"+id, nil); a.Status != 200 {
				t.Errorf("open to %q: %d %s", who, a.Status, a.Body)
			}
			pic := n.put(picture(80, 60), "", "image/png")
			if a := n.As(who).Call("GET /_matrix/media/v3/thumbnail/"+pic+"?width=32&height=32&method=scale", nil); a.Status != 200 {
				t.Errorf("a thumbnail for %q: %d %s", who, a.Status, a.Body)
			}
		}
		a := n.Call(download+id+"?allow_redirect=true", nil)
		if _, s3 := n.store.(*blob.S3); s3 && (a.Status != 307 || a.Header.Get("Location") == "") || !s3 && a.Status != 200 {
			t.Errorf("redirect: %d %s", a.Status, a.Body)
		}
	})
}

// counted is an endless body.
type counted struct{ n int64 }

func (c *counted) Read(p []byte) (int, error) {
	c.n += int64(len(p))
	return len(p), nil
}

func TestLargeUploads(t *testing.T) {
	run(t, media.Config{MaxUpload: 64 << 20}, media.Deps{}, func(t *testing.T, n *node) {
		var before, after runtime.MemStats
		runtime.ReadMemStats(&before)
		body := &counted{}
		if a := n.Call(upload, body); a.Status != 413 || a.Errcode() != "M_TOO_LARGE" {
			t.Errorf("endless: %d %s", a.Status, a.Body)
		}
		if body.n > 66<<20 {
			t.Errorf("%d bytes were read", body.n)
		}
		if a := n.Call(upload, io.LimitReader(&counted{}, 64<<20)); a.Status != 200 {
			t.Errorf("at the limit: %d %s", a.Status, a.Body)
		}
		runtime.ReadMemStats(&after)
		if grown := after.TotalAlloc - before.TotalAlloc; grown > 40<<20 {
			t.Errorf("128 MiB took %d MiB of memory", grown>>20)
		}
	})
}

// TestMediaIDsCanNotBeCounted: who knows one media id must not find the next.
func TestMediaIDsCanNotBeCounted(t *testing.T) {
	run(t, media.Config{}, media.Deps{}, func(t *testing.T, n *node) {
		ids := []string{n.put([]byte("one"), "", "text/plain"), n.put([]byte("two"), "", "text/plain")}
		for range 2 {
			a := n.Want(200, "POST /_matrix/media/v1/create", nil)
			ids = append(ids, strings.TrimPrefix(a.Get("content_uri").String(), "mxc://"))
		}
		const random = 22 // characters of 6 bits
		tails := map[string]bool{}
		for _, id := range ids {
			tails[id[max(0, len(id)-random):]] = true
			if len(id) < len("here.test/")+random {
				t.Errorf("%q has no room for 128 random bits", id)
			}
			for _, other := range ids {
				same := 0
				for i := range min(random, len(id), len(other)) {
					if id[len(id)-1-i] == other[len(other)-1-i] {
						same++
					}
				}
				if id != other && same > random/2 {
					t.Errorf("%q can be guessed from %q", id, other)
				}
			}
		}
		if len(tails) != len(ids) {
			t.Errorf("the random parts repeat: %q", ids)
		}
	})
}

// TestOlderMediaIDsStay: ids of 11 characters were given out before.
func TestOlderMediaIDsStay(t *testing.T) {
	run(t, media.Config{}, media.Deps{}, func(t *testing.T, n *node) {
		id := n.put([]byte("old"), "", "text/plain")
		if _, err := n.p.DB.Exec(t.Context(), "UPDATE media SET media_id = $1", "--3Rc0a_z-1"); err != nil {
			t.Fatal(err)
		}
		if a := n.Call(download+"here.test/--3Rc0a_z-1", nil); a.Status != 200 || string(a.Body) != "old" {
			t.Errorf("%d %s", a.Status, a.Body)
		}
		if a := n.Call(download+id, nil); a.Status != 404 {
			t.Errorf("%d %s", a.Status, a.Body)
		}
	})
}

// TestWhoWaitsMustStillBeLetIn: a file that comes later goes to nobody whose token has ended meanwhile, who is told soon.
func TestWhoWaitsMustStillBeLetIn(t *testing.T) {
	run(t, media.Config{}, media.Deps{}, func(t *testing.T, n *node) {
		doors := &doors{}
		n.Client = webtest.New(t, doors, n.routes...).As("a")
		for _, ask := range []string{
			download + "%s?timeout_ms=9000", download + "%s/name.txt?timeout_ms=9000",
			thumb + "%s?timeout_ms=9000&width=10&height=10",
		} {
			for _, comes := range []bool{true, false} {
				doors.lock("")
				id := strings.TrimPrefix(n.Want(200, "POST /_matrix/media/v1/create", nil).Get("content_uri").String(), "mxc://")
				began, got := time.Now(), make(chan webtest.Answer, 1)
				go func() { got <- n.As("b").Call(fmt.Sprintf(ask, id), nil) }()
				time.Sleep(100 * time.Millisecond)
				doors.lock("b")
				if comes {
					n.Want(200, "PUT /_matrix/media/v3/upload/"+id, picture(20, 20))
				}
				if a := <-got; a.Status != 401 || time.Since(began) > 4*time.Second {
					t.Errorf("%s: %d %.100q after %s", ask, a.Status, a.Body, time.Since(began))
				}
			}
		}
	})
}

// TestUploadMustStillBeLetIn: a file that took long is nobody's when its sender's token has ended meanwhile.
func TestUploadMustStillBeLetIn(t *testing.T) {
	run(t, media.Config{}, media.Deps{}, func(t *testing.T, n *node) {
		doors := &doors{}
		n.Client = webtest.New(t, doors, n.routes...).As("a")
		id := strings.TrimPrefix(n.Want(200, "POST /_matrix/media/v1/create", nil).Get("content_uri").String(), "mxc://")
		for _, target := range []string{upload, "PUT /_matrix/media/v3/upload/" + id} {
			if a := n.Call(target, io.MultiReader(strings.NewReader("begun"), at(func() { doors.lock("a") }))); a.Status != 401 {
				t.Errorf("%s: %d %s", target, a.Status, a.Body)
			}
			doors.lock("")
		}
		if a := n.Call(download+id+"?timeout_ms=1", nil); a.Errcode() != "M_NOT_YET_UPLOADED" {
			t.Errorf("what was refused is there: %d %s", a.Status, a.Body)
		}
		n.wantBlobs(0)
	})
}

// TestARefusedFileIsNotKept: somebody else was faster with the same media id, while the body came.
func TestARefusedFileIsNotKept(t *testing.T) {
	run(t, media.Config{}, media.Deps{}, func(t *testing.T, n *node) {
		id := strings.TrimPrefix(n.Want(200, "POST /_matrix/media/v1/create", nil).Get("content_uri").String(), "mxc://")
		put := "PUT /_matrix/media/v3/upload/" + id
		faster := at(func() { n.Want(200, put, "first") })
		if a := n.Call(put, io.MultiReader(strings.NewReader("second"), faster)); a.Status != 409 || a.Errcode() != "M_CANNOT_OVERWRITE_MEDIA" {
			t.Errorf("%d %s", a.Status, a.Body)
		}
		n.wantBlobs(1)

		// Several at once, whose bodies end at the same moment.
		id = strings.TrimPrefix(n.Want(200, "POST /_matrix/media/v1/create", nil).Get("content_uri").String(), "mxc://")
		var all, come sync.WaitGroup
		var taken atomic.Int64
		const many = 6
		come.Add(many)
		for i := range many {
			all.Go(func() {
				body := io.MultiReader(strings.NewReader(strings.Repeat(fmt.Sprint(i), 100_000)), at(func() { come.Done(); come.Wait() }))
				switch a := n.Call("PUT /_matrix/media/v3/upload/"+id, body); a.Status {
				case 200:
					taken.Add(1)
				case 409:
				default:
					t.Errorf("%d %s", a.Status, a.Body)
				}
			})
		}
		all.Wait()
		if taken.Load() != 1 {
			t.Errorf("%d were taken", taken.Load())
		}
		n.wantBlobs(2)
	})
}

// at is the end of a body, at which something is done.
type at func()

func (f at) Read([]byte) (int, error) {
	f()
	return 0, io.EOF
}

// wantBlobs wants so many files in the store.
func (n *node) wantBlobs(want int) {
	n.t.Helper()
	if list, err := n.store.List(n.t.Context(), "media/", "", 10); err != nil || len(list) != want {
		n.t.Errorf("%d files in the store, expected %d: %v", len(list), want, err)
	}
}

// doors let all people in but one.
type doors struct {
	mu     sync.Mutex
	locked string
}

func (d *doors) lock(token string) {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.locked = token
}

func (d *doors) Authenticate(ctx context.Context, token string) (*web.Identity, error) {
	d.mu.Lock()
	defer d.mu.Unlock()
	if token == d.locked {
		token = "none"
	}
	return people.Authenticate(ctx, token)
}

func TestAsyncUpload(t *testing.T) {
	run(t, media.Config{MaxPending: 2}, media.Deps{}, func(t *testing.T, n *node) {
		a := n.Want(200, "POST /_matrix/media/v1/create", nil)
		id := strings.TrimPrefix(a.Get("content_uri").String(), "mxc://")
		if a.Get("unused_expires_at").Int() < time.Now().UnixMilli() {
			t.Errorf("%s", a.Body)
		}
		if a := n.Call(download+id+"?timeout_ms=1", nil); a.Status != 504 || a.Errcode() != "M_NOT_YET_UPLOADED" {
			t.Errorf("early: %d %s", a.Status, a.Body)
		}
		put := "PUT /_matrix/media/v3/upload/" + id
		if a := n.As("b").Call(put, "x"); a.Status != 403 {
			t.Errorf("another user: %d %s", a.Status, a.Body)
		}
		var waiting sync.WaitGroup
		for range 3 {
			waiting.Go(func() {
				if a := n.Call(download+id, nil); a.Status != 200 || string(a.Body) != "late" {
					t.Errorf("waiting: %d %s", a.Status, a.Body)
				}
			})
		}
		if a := n.Call(put, "late", "Content-Type: text/plain"); a.Status != 200 || string(a.Body) != "{}" {
			t.Errorf("%d %s", a.Status, a.Body)
		}
		waiting.Wait()
		if a := n.Call(put, "later"); a.Status != 409 || a.Errcode() != "M_CANNOT_OVERWRITE_MEDIA" {
			t.Errorf("again: %d %s", a.Status, a.Body)
		}
		if a := n.Call("PUT /_matrix/media/v3/upload/here.test/unknown", "x"); a.Status != 404 {
			t.Errorf("unknown: %d", a.Status)
		}
		n.Want(200, "POST /_matrix/media/v1/create", nil)
		n.Want(200, "POST /_matrix/media/v1/create", nil)
		if a := n.Call("POST /_matrix/media/v1/create", nil); a.Status != 429 || a.Errcode() != "M_LIMIT_EXCEEDED" {
			t.Errorf("too many: %d %s", a.Status, a.Body)
		}
	})
}

func TestThumbnails(t *testing.T) {
	run(t, media.Config{}, media.Deps{}, func(t *testing.T, n *node) {
		id := n.put(picture(1200, 900), "", "image/png")
		var all sync.WaitGroup
		for range 4 {
			all.Go(func() {
				a := n.Call(thumb+id+"?width=64&height=64&method=crop", nil)
				img, _, err := image.Decode(bytes.NewReader(a.Body))
				if a.Status != 200 || err != nil || img.Bounds().Size() != image.Pt(96, 96) {
					t.Errorf("%d %v %.200s", a.Status, err, a.Body)
				}
				if got := a.Header.Get("Content-Disposition"); got != `inline; filename="thumbnail.jpeg"` {
					t.Errorf("disposition %q", got)
				}
			})
		}
		all.Wait()
		blobs, err := n.store.List(t.Context(), "thumbnails/", "", 10)
		if err != nil || len(blobs) != 1 {
			t.Errorf("%d thumbnails, %v", len(blobs), err)
		}
		small := n.put(picture(20, 20), "", "text/html")
		if a := n.Call(thumb+small+"?width=320&height=240", nil); a.Status != 200 || a.Header.Get("Content-Type") != "image/png" {
			t.Errorf("small: %d %v", a.Status, a.Header)
		}
		for name, c := range map[string]struct {
			data   []byte
			status int
			code   string
		}{
			"bomb":    {bomb(1<<20, 1<<20), 413, "M_TOO_LARGE"},
			"huge":    {bomb(1<<30, 1<<30), 400, "M_UNKNOWN"},
			"hollow":  {bomb(9990, 9990), 400, "M_UNKNOWN"},
			"lying":   {bomb(5000, 5000), 400, "M_UNKNOWN"},
			"garbage": {[]byte("\x89PNG\r\n\x1a\n garbage garbage garbage garbage"), 400, "M_UNKNOWN"},
			"text":    {[]byte("no picture at all"), 400, "M_UNKNOWN"},
			"empty":   {nil, 400, "M_UNKNOWN"},
		} {
			id := n.put(c.data, "", "image/png")
			for range 2 {
				if a := n.Call(thumb+id+"?width=32&height=32", nil); a.Status != c.status || a.Errcode() != c.code {
					t.Errorf("%s: %d %s", name, a.Status, a.Body)
				}
			}
		}
		for _, query := range []string{"", "?width=1", "?width=-1&height=1", "?width=x&height=1", "?width=1&height=1&method=stretch"} {
			if a := n.Call(thumb+id+query, nil); a.Status != 400 {
				t.Errorf("%q: %d", query, a.Status)
			}
		}
	})
}

func TestWorkersThatFail(t *testing.T) {
	for _, mode := range []string{"crash", "hang"} {
		t.Run(mode, func(t *testing.T) {
			c := media.Config{}
			c.Thumbnails.Timeout = conf.Duration(100 * time.Millisecond)
			run(t, c, media.Deps{Worker: []string{os.Args[0], mode}}, func(t *testing.T, n *node) {
				id := n.put(picture(500, 500+rand.IntN(100)), "", "image/png")
				if a := n.Call(thumb+id+"?width=32&height=32", nil); a.Status != 400 || a.Errcode() != "M_UNKNOWN" {
					t.Errorf("%d %s", a.Status, a.Body)
				}
				if a := n.Call(download+id, nil); a.Status != 200 {
					t.Errorf("the server was harmed: %d", a.Status)
				}
			})
		})
	}
}
