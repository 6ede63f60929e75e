package blob_test

import (
	"bytes"
	"errors"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"testing"

	"github.com/prometheus/client_golang/prometheus"
	"pgregory.net/rapid"

	"lyceum/platform/blob"
	"lyceum/platform/blob/blobtest"
	"lyceum/platform/conf"
	"lyceum/platform/engines/enginestest"
)

func openDirectory(t testing.TB) blob.Store {
	t.Helper()
	s, err := blob.Open(t.Context(), blob.Config{Directory: filepath.Join(t.TempDir(), "blobs")})
	if err != nil {
		t.Fatal(err)
	}
	return s
}

func s3Config(t testing.TB) blob.S3Config {
	t.Helper()
	c := enginestest.TestS3(t)
	return blob.S3Config{
		Endpoint: c.Endpoint, Region: c.Region, Bucket: c.Bucket, AccessKey: c.AccessKey, SecretKey: conf.Secret(c.SecretKey),
		PathStyle: true, Retries: 3,
	}
}

func openS3(t testing.TB) blob.Store {
	t.Helper()
	s, err := blob.Open(t.Context(), blob.Config{S3: s3Config(t)})
	if err != nil {
		t.Fatal(err)
	}
	return s
}

func TestDirectory(t *testing.T) { blobtest.Run(t, openDirectory) }

func TestS3(t *testing.T) { blobtest.Run(t, openS3) }

func TestS3WithPrefix(t *testing.T) {
	blobtest.Run(t, func(t testing.TB) blob.Store {
		c := s3Config(t)
		c.Prefix = "lyceum/"
		s, err := blob.OpenS3(t.Context(), c)
		if err != nil {
			t.Fatal(err)
		}
		return s
	})
}

func TestS3Bucket(t *testing.T) {
	c := s3Config(t)
	c.Bucket = "made-by-lyceum"
	if _, err := blob.OpenS3(t.Context(), c); err == nil || !strings.Contains(err.Error(), "make_bucket") {
		t.Errorf("missing bucket: %v", err)
	}
	c.MakeBucket = true
	for range 2 {
		if _, err := blob.OpenS3(t.Context(), c); err != nil {
			t.Error(err)
		}
	}
	c.SecretKey = "wrong"
	if _, err := blob.OpenS3(t.Context(), c); err == nil || strings.Contains(err.Error(), "wrong") {
		t.Errorf("wrong key: %v", err)
	}
}

func TestConfigNamesTheKey(t *testing.T) {
	for key, c := range map[string]blob.Config{
		"blob.directory": {},
		"endpoint":       {S3: blob.S3Config{Endpoint: "host:9000", Bucket: "b"}},
		"bucket":         {S3: blob.S3Config{Endpoint: "http://host:9000"}},
		"secret_key":     {S3: blob.S3Config{Endpoint: "http://host:9000", Bucket: "b", AccessKey: "a"}},
		"directory":      {Directory: "x", S3: blob.S3Config{Bucket: "b"}},
	} {
		if _, err := blob.Open(t.Context(), c); err == nil || !strings.Contains(err.Error(), key) {
			t.Errorf("%s: %v", key, err)
		}
	}
}

// TestDirectoryListsAsASortedSet compares the folders with a sorted slice, over keys chosen to meet at slashes.
func TestDirectoryListsAsASortedSet(t *testing.T) {
	part := rapid.StringMatching(`[a\-.!0]{1,6}`).Filter(func(s string) bool { return s != "." && s != ".." })
	key := rapid.Custom(func(t *rapid.T) string {
		return strings.Join(rapid.SliceOfN(part, 1, 3).Draw(t, "parts"), "/")
	})
	base := t.TempDir()
	rapid.Check(t, func(rt *rapid.T) {
		root, err := os.MkdirTemp(base, "")
		if err != nil {
			rt.Fatal(err)
		}
		defer os.RemoveAll(root)
		s, err := blob.OpenDirectory(root)
		if err != nil {
			rt.Fatal(err)
		}
		keys := rapid.SliceOfNDistinct(key, 1, 12, func(s string) string { return s }).Draw(rt, "keys")
		for _, k := range keys {
			if _, err := s.Put(t.Context(), k, strings.NewReader(k), -1); err != nil {
				rt.Fatal(err)
			}
		}
		prefix := rapid.OneOf(rapid.Just(""), rapid.StringMatching(`[a\-./]{1,2}`), key).Draw(rt, "prefix")
		after := rapid.OneOf(rapid.Just(""), key, rapid.SampledFrom(keys)).Draw(rt, "after")
		limit := rapid.IntRange(1, 15).Draw(rt, "limit")
		var want []string
		slices.Sort(keys)
		for _, k := range keys {
			if strings.HasPrefix(k, prefix) && k > after && len(want) < limit {
				want = append(want, k)
			}
		}
		page, err := s.List(t.Context(), prefix, after, limit)
		if err != nil {
			rt.Fatal(err)
		}
		var got []string
		for _, info := range page {
			got = append(got, info.Key)
		}
		if !slices.Equal(got, want) {
			rt.Fatalf("keys %q, prefix %q, after %q, limit %d:\n got %q\nwant %q", keys, prefix, after, limit, got, want)
		}
	})
}

func TestDirectoryLeavesNoTemporaryFiles(t *testing.T) {
	root := t.TempDir()
	s, err := blob.OpenDirectory(root)
	if err != nil {
		t.Fatal(err)
	}
	s.Put(t.Context(), "a", strings.NewReader("x"), 5)
	s.Put(t.Context(), "b", strings.NewReader("x"), 1)
	blob.PutContent(t.Context(), s, "c/", strings.NewReader("x"), 1)
	blob.PutContent(t.Context(), s, "c/", strings.NewReader("x"), 1)
	blob.PutContent(t.Context(), s, "c/", strings.NewReader("xyz"), 1)
	blob.PutContent(t.Context(), s, "/bad/", strings.NewReader("x"), 1)
	files := 0
	filepath.WalkDir(root, func(_ string, d fs.DirEntry, _ error) error {
		if !d.IsDir() {
			files++
		}
		return nil
	})
	if files != 2 {
		t.Errorf("%d files, expected the 2 blobs alone", files)
	}
}

// TestMemoryIsBounded puts and gets 96 MiB and watches the heap.
func TestMemoryIsBounded(t *testing.T) {
	const size = 96 << 20
	for name, open := range map[string]blobtest.Open{"Directory": openDirectory, "S3": openS3} {
		t.Run(name, func(t *testing.T) {
			s := open(t)
			var peak uint64
			watch := func() {
				var m runtime.MemStats
				runtime.ReadMemStats(&m)
				peak = max(peak, m.HeapAlloc)
			}
			runtime.GC()
			watch()
			base := peak
			for _, announced := range []int64{-1, size} {
				if _, err := s.Put(t.Context(), "large", io.LimitReader(&watched{watch: watch}, size), announced); err != nil {
					t.Fatal(err)
				}
			}
			r, err := s.Get(t.Context(), "large", 0, -1)
			if err != nil {
				t.Fatal(err)
			}
			defer r.Close()
			n, err := io.Copy(io.Discard, r)
			if err != nil || n != size {
				t.Fatalf("%d bytes, %v", n, err)
			}
			watch()
			if grown := peak - base; grown > 40<<20 {
				t.Errorf("the heap grew by %s for a blob of %s", conf.Size(grown), conf.Size(size))
			}
		})
	}
}

// watched is an endless reader that looks at the heap now and then.
type watched struct {
	n     int
	watch func()
}

func (w *watched) Read(p []byte) (int, error) {
	if w.n += len(p); w.n > 4<<20 {
		w.n = 0
		w.watch()
	}
	return len(p), nil
}

func BenchmarkPutGet(b *testing.B) {
	for name, open := range map[string]blobtest.Open{"Directory": openDirectory, "S3": openS3} {
		s := open(b)
		data := make([]byte, 100<<10)
		b.Run(name+"/Put", func(b *testing.B) {
			for b.Loop() {
				if _, err := s.Put(b.Context(), "bench/blob", bytes.NewReader(data), int64(len(data))); err != nil {
					b.Fatal(err)
				}
			}
		})
		b.Run(name+"/Get", func(b *testing.B) {
			for b.Loop() {
				r, err := s.Get(b.Context(), "bench/blob", 0, -1)
				if err != nil {
					b.Fatal(err)
				}
				io.Copy(io.Discard, r)
				r.Close()
			}
		})
	}
}

// TestS3PutsFilesOnTheirWayIntoItsScratch holds also that nothing stays there, whatever becomes of a file.
func TestS3PutsFilesOnTheirWayIntoItsScratch(t *testing.T) {
	scratch := filepath.Join(t.TempDir(), "scratch")
	s, err := blob.Open(t.Context(), blob.Config{S3: s3Config(t), Scratch: scratch})
	if err != nil {
		t.Fatal(err)
	}
	s = blob.Measured(s, prometheus.NewRegistry())
	if _, _, err := blob.PutContent(t.Context(), s, "x/", strings.NewReader("some bytes"), -1); err != nil {
		t.Fatal(err)
	}
	if left, err := os.ReadDir(scratch); err != nil || len(left) != 0 {
		t.Errorf("the scratch holds %v, %v", left, err)
	}
	if err := os.Remove(scratch); err != nil {
		t.Fatal(err)
	}
	if _, _, err := blob.PutContent(t.Context(), s, "x/", strings.NewReader("other bytes"), -1); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("without the scratch: %v, expected that it is missed", err)
	}
}
