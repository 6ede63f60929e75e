package blobtest

import (
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"net/http"
	"slices"
	"strings"
	"sync"
	"testing"
	"testing/iotest"
	"time"

	"lyceum/platform/blob"
)

// Open returns a new, empty store, closed by the caller's cleanup.
type Open func(t testing.TB) blob.Store

// Run tests the promises of blob.Store.
func Run(t *testing.T, open Open) {
	t.Run("PutGetStatDelete", func(t *testing.T) { roundTrip(t, open(t)) })
	t.Run("Ranges", func(t *testing.T) { ranges(t, open(t)) })
	t.Run("Missing", func(t *testing.T) { missing(t, open(t)) })
	t.Run("Keys", func(t *testing.T) { keys(t, open(t)) })
	t.Run("AllOrNothing", func(t *testing.T) { allOrNothing(t, open(t)) })
	t.Run("ReplacedWhileRead", func(t *testing.T) { replaced(t, open(t)) })
	t.Run("List", func(t *testing.T) { list(t, open(t)) })
	t.Run("Content", func(t *testing.T) { content(t, open(t)) })
	t.Run("Presign", func(t *testing.T) { presign(t, open(t)) })
}

// stream hides every method of a reader but Read.
type stream struct{ io.Reader }

func noise(n int, seed uint64) []byte {
	data := make([]byte, n)
	r := rand.NewChaCha8([32]byte{byte(seed)})
	r.Read(data)
	return data
}

func roundTrip(t *testing.T, s blob.Store) {
	ctx := t.Context()
	for i, size := range []int{0, 1, 4096, 100_000, 5 << 20, 12<<20 + 5} {
		data := noise(size, uint64(i))
		for _, announced := range []int64{int64(size), -1} {
			for name, r := range map[string]io.Reader{"stream": stream{bytes.NewReader(data)}, "file": bytes.NewReader(data)} {
				key := fmt.Sprintf("dir/%d/%s%d", size, name, announced+1)
				n, err := s.Put(ctx, key, r, announced)
				if err != nil || n != int64(size) {
					t.Fatalf("put %s: %d, %v", key, n, err)
				}
				if got := read(t, s, key, 0, -1); !bytes.Equal(got, data) {
					t.Fatalf("%s: got %d bytes that differ from the %d put", key, len(got), size)
				}
				info, err := s.Stat(ctx, key)
				if err != nil || info.Key != key || info.Size != int64(size) || time.Since(info.Modified).Abs() > time.Hour {
					t.Errorf("stat %s: %+v, %v", key, info, err)
				}
				if err := errors.Join(s.Delete(ctx, key), s.Delete(ctx, key)); err != nil {
					t.Errorf("delete %s twice: %v", key, err)
				}
				if _, err := s.Stat(ctx, key); !errors.Is(err, blob.ErrNotFound) {
					t.Errorf("stat after delete: %v", err)
				}
			}
		}
	}
}

func ranges(t *testing.T, s blob.Store) {
	const size = 1000
	data := noise(size, 1)
	put(t, s, "r", data)
	put(t, s, "empty", nil)
	check := func(offset, length int64) {
		t.Helper()
		from := min(offset, size)
		to := int64(size)
		if length >= 0 {
			to = min(from+length, size)
		}
		if got := read(t, s, "r", offset, length); !bytes.Equal(got, data[from:to]) {
			t.Errorf("range %d, %d: got %d bytes, expected %d", offset, length, len(got), to-from)
		}
	}
	for _, offset := range []int64{0, 1, 500, 999, 1000, 1001, 5000} {
		for _, length := range []int64{-1, 0, 1, 499, 1000, 5000} {
			check(offset, length)
		}
	}
	for range 20 {
		check(rand.Int64N(size), rand.Int64N(size))
	}
	for _, length := range []int64{-1, 0, 10} {
		if got := read(t, s, "empty", 0, length); len(got) != 0 {
			t.Errorf("an empty blob has %d bytes", len(got))
		}
	}
	for _, bad := range [][2]int64{{-1, 5}, {0, -2}} {
		if r, err := s.Get(t.Context(), "r", bad[0], bad[1]); err == nil {
			r.Close()
			t.Errorf("range %v was accepted", bad)
		}
	}
}

func missing(t *testing.T, s blob.Store) {
	for _, key := range []string{"nothing", "nothing/below/it"} {
		for _, span := range [][2]int64{{0, -1}, {0, 0}, {5, 10}} {
			if r, err := s.Get(t.Context(), key, span[0], span[1]); !errors.Is(err, blob.ErrNotFound) {
				if err == nil {
					r.Close()
				}
				t.Errorf("get %s %v: %v", key, span, err)
			}
		}
		if _, err := s.Stat(t.Context(), key); !errors.Is(err, blob.ErrNotFound) {
			t.Errorf("stat %s: %v", key, err)
		}
		if err := s.Delete(t.Context(), key); err != nil {
			t.Errorf("delete %s: %v", key, err)
		}
	}
}

func keys(t *testing.T, s blob.Store) {
	ctx := t.Context()
	for _, key := range []string{
		"", ".", "..", "../x", "a/../b", "a/./b", "/a", "a/", "a//b", "a\x00b", `a\b`, "a~b", "ä", "a b", "a\n", "a?b", "a%2fb",
		strings.Repeat("a", 201), strings.Repeat("a/", 300) + "a",
	} {
		if _, err := s.Put(ctx, key, strings.NewReader("x"), 1); !errors.Is(err, blob.ErrKey) {
			t.Errorf("put %q: %v", key, err)
		}
		if r, err := s.Get(ctx, key, 0, -1); !errors.Is(err, blob.ErrKey) {
			if err == nil {
				r.Close()
			}
			t.Errorf("get %q: %v", key, err)
		}
		if _, err := s.Stat(ctx, key); !errors.Is(err, blob.ErrKey) {
			t.Errorf("stat %q: %v", key, err)
		}
		if err := s.Delete(ctx, key); !errors.Is(err, blob.ErrKey) {
			t.Errorf("delete %q: %v", key, err)
		}
	}
	for _, key := range []string{"a", "ab", "abc/d", "...", ".hidden", "x!_.*'()=+,:@-", strings.Repeat("a", 200), "A/B"} {
		put(t, s, key, []byte(key))
		if got := string(read(t, s, key, 0, -1)); got != key {
			t.Errorf("%q holds %q", key, got)
		}
	}
}

func allOrNothing(t *testing.T, s blob.Store) {
	ctx := t.Context()
	broken := errors.New("the line is cut")
	cancelled, cancel := context.WithCancel(ctx)
	cancel()
	for i, c := range []struct {
		ctx  context.Context
		r    io.Reader
		size int64
		want error
	}{
		{ctx, io.MultiReader(bytes.NewReader(noise(6<<20, 1)), iotest.ErrReader(broken)), -1, broken},
		{ctx, io.MultiReader(strings.NewReader("part"), iotest.ErrReader(broken)), 100, broken},
		{ctx, stream{strings.NewReader("short")}, 6, blob.ErrSize},
		{ctx, stream{strings.NewReader("longer")}, 5, blob.ErrSize},
		{ctx, strings.NewReader("short"), 6, blob.ErrSize},
		{ctx, strings.NewReader("longer"), 5, blob.ErrSize},
		{ctx, stream{strings.NewReader("x")}, 0, blob.ErrSize},
		{ctx, stream{bytes.NewReader(noise(6<<20+1, 1))}, 6 << 20, blob.ErrSize},
		{cancelled, strings.NewReader("x"), 1, context.Canceled},
	} {
		key := fmt.Sprintf("broken/%d", i)
		if _, err := s.Put(c.ctx, key, c.r, c.size); !errors.Is(err, c.want) {
			t.Errorf("case %d: %v, expected %v", i, err, c.want)
		}
		if _, err := s.Stat(ctx, key); !errors.Is(err, blob.ErrNotFound) {
			t.Errorf("case %d: a broken put left a blob: %v", i, err)
		}
	}
}

// replaced: a reader sees the old bytes or the new ones, never a mixture.
func replaced(t *testing.T, s blob.Store) {
	const size = 200_000
	put(t, s, "same", bytes.Repeat([]byte{0}, size))
	var wg sync.WaitGroup
	wg.Go(func() {
		for i := range 20 {
			if _, err := s.Put(t.Context(), "same", bytes.NewReader(bytes.Repeat([]byte{byte(i)}, size)), size); err != nil {
				t.Error(err)
				return
			}
		}
	})
	wg.Go(func() {
		for range 40 {
			r, err := s.Get(t.Context(), "same", 0, -1)
			if err != nil {
				t.Error(err)
				return
			}
			got, err := io.ReadAll(r)
			r.Close()
			if err != nil || len(got) != size || bytes.Count(got, got[:1]) != size {
				t.Errorf("%d bytes, mixed or cut: %v", len(got), err)
				return
			}
		}
	})
	wg.Wait()
}

func list(t *testing.T, s blob.Store) {
	var all []string
	add := func(key string) {
		put(t, s, key, []byte("x"))
		all = append(all, key)
	}
	for _, key := range []string{"one", "two/a", "two/b", "two-b/c", "twofold", "u", "uv", "A", "aa/bb/cc/dd"} {
		add(key)
	}
	for i := range 30 {
		sum := sha256.Sum256([]byte{byte(i)})
		add("media/" + hex.EncodeToString(sum[:]))
	}
	slices.Sort(all)
	for _, prefix := range []string{"", "t", "two", "two/", "two/a", "media/", "media/4", "me", "u", "uv", "zz", "A", "aa/bb/"} {
		var want []string
		for _, key := range all {
			if strings.HasPrefix(key, prefix) {
				want = append(want, key)
			}
		}
		for _, limit := range []int{1, 3, 1000} {
			var got []string
			after := ""
			for {
				page, err := s.List(t.Context(), prefix, after, limit)
				if err != nil {
					t.Fatal(err)
				}
				if len(page) > limit {
					t.Fatalf("%d entries, asked for at most %d", len(page), limit)
				}
				for _, info := range page {
					if info.Size != 1 || info.Modified.IsZero() {
						t.Errorf("%+v", info)
					}
					got = append(got, info.Key)
				}
				if len(page) == 0 || len(got) > len(all) {
					break
				}
				after = page[len(page)-1].Key
			}
			if !slices.Equal(got, want) {
				t.Errorf("prefix %q, limit %d:\n got %q\nwant %q", prefix, limit, got, want)
			}
		}
	}
	if page, err := s.List(t.Context(), "", "", 0); err != nil || len(page) != 0 {
		t.Errorf("limit 0: %v, %v", page, err)
	}
}

func content(t *testing.T, s blob.Store) {
	ctx := t.Context()
	data := noise(7<<20, 3)
	sum := sha256.Sum256(data)
	want := hex.EncodeToString(sum[:])
	var wg sync.WaitGroup
	for range 3 {
		wg.Go(func() {
			hash, size, err := blob.PutContent(ctx, s, "content/", stream{bytes.NewReader(data)}, int64(len(data)))
			if err != nil || hash != want || size != int64(len(data)) {
				t.Errorf("%s, %d, %v", hash, size, err)
			}
		})
	}
	wg.Wait()
	if got := read(t, s, "content/"+want, 0, -1); !bytes.Equal(got, data) {
		t.Error("the content differs")
	}
	before, err := s.Stat(ctx, "content/"+want)
	if err != nil {
		t.Fatal(err)
	}
	if _, _, err := blob.PutContent(ctx, s, "content/", bytes.NewReader(data), -1); err != nil {
		t.Error(err)
	}
	if after, err := s.Stat(ctx, "content/"+want); err != nil || after != before {
		t.Errorf("the same bytes were stored again: %+v, %+v, %v", before, after, err)
	}
	if _, _, err := blob.PutContent(ctx, s, "content/", bytes.NewReader(data[:101]), 100); !errors.Is(err, blob.ErrTooLarge) {
		t.Errorf("over the limit: %v", err)
	}
	if hash, size, err := blob.PutContent(ctx, s, "content/", strings.NewReader(""), 0); err != nil || size != 0 || len(hash) != 64 {
		t.Errorf("nothing: %s, %d, %v", hash, size, err)
	}
	if page, err := s.List(ctx, "", "", 10); err != nil || len(page) != 2 {
		t.Errorf("%d blobs, expected 2: %v", len(page), err)
	}
}

func presign(t *testing.T, s blob.Store) {
	put(t, s, "dir/signed", []byte("open to all"))
	url, err := s.Presign(t.Context(), "dir/signed", time.Minute)
	if errors.Is(err, blob.ErrUnsupported) {
		return
	}
	if err != nil {
		t.Fatal(err)
	}
	get := func(url string) (int, string) {
		resp, err := http.Get(url)
		if err != nil {
			t.Fatal(err)
		}
		defer resp.Body.Close()
		body, err := io.ReadAll(resp.Body)
		if err != nil {
			t.Fatal(err)
		}
		return resp.StatusCode, string(body)
	}
	if code, body := get(url); code != 200 || body != "open to all" {
		t.Errorf("signed: %d %s", code, body)
	}
	bare, _, _ := strings.Cut(url, "?")
	if code, _ := get(bare); code == 200 {
		t.Error("without the signature it is open as well")
	}
}

func put(t testing.TB, s blob.Store, key string, data []byte) {
	t.Helper()
	if _, err := s.Put(t.Context(), key, bytes.NewReader(data), int64(len(data))); err != nil {
		t.Fatal(err)
	}
}

func read(t testing.TB, s blob.Store, key string, offset, length int64) []byte {
	t.Helper()
	r, err := s.Get(t.Context(), key, offset, length)
	if err != nil {
		t.Fatalf("get %s from %d, %d bytes: %v", key, offset, length, err)
	}
	defer r.Close()
	data, err := io.ReadAll(r)
	if err != nil {
		t.Fatalf("read %s from %d, %d bytes: %v", key, offset, length, err)
	}
	return data
}
