package web

import (
	"bufio"
	"bytes"
	"io"
	"net/http"
	"reflect"
	"strings"
	"testing"
)

func TestReadSame(t *testing.T) {
	const path = "/_matrix/client/v3/sync"
	long := "GET " + path + "?since=a%20b&timeout=3 HTTP/1.1\r\nHost: example.org:8008\r\nUser-agent: x y\r\nAuthorization: Bearer " +
		"t\r\nConnection: keep-alive\r\nAccept: a\r\naccept:\tb \r\n\r\n"
	for _, c := range []struct {
		text  string
		plain bool
		size  int // 0: none
	}{
		{"", true, 0},
		{"GE", true, 0},
		{"GET /_matrix/cli", true, 0},
		{long, true, len(long)},
		{long + "GET /", true, len(long)},
		{long[:len(long)-1], true, 0},
		{"GET " + path + " HTTP/1.1\r\nHost: x\r\n\r\n", true, len(path) + 26},
		{"POST", false, 0},
		{"GET /now", false, 0},
		{"GET " + path + "hrone HTTP/1.1\r\nHost: x\r\n\r\n", false, 0},
		{"GET " + path + "? HTTP/1.1\r\nHost: x\r\n\r\n", false, 0},
		{"GET " + path + " HTTP/1.0\r\nHost: x\r\n\r\n", false, 0},
		{"GET " + path + " HTTP/1.1\nHost: x\n\n", false, 0},
		{"GET " + path + " HTTP/1.1\r\n\r\n", false, 0},
		{"GET " + path + " HTTP/1.1\r\nHost: x\r\nHost: y\r\n\r\n", false, 0},
		{"GET " + path + " HTTP/1.1\r\nHost: x\r\nContent-Length: 5\r\n\r\n", false, 0},
		{"GET " + path + " HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n", false, 0},
		{"GET " + path + " HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n", false, 0},
		{"GET " + path + " HTTP/1.1\r\nHost: x\r\nExpect: 100-continue\r\n\r\n", false, 0},
		{"GET " + path + " HTTP/1.1\r\nHost: x\r\nA: b\r\n c\r\n\r\n", false, 0},
		{"GET " + path + " HTTP/1.1\r\nHost: x\r\nA : b\r\n\r\n", false, 0},
		{"GET " + path + " HTTP/1.1\r\nHost: x\r\nA: \x00\r\n\r\n", false, 0},
		{"GET " + path + "#a HTTP/1.1\r\nHost: x\r\n\r\n", false, 0},
	} {
		r, size, plain := parseSameRequest([]byte(c.text), path)
		if (r != nil) != (c.size > 0) || size != c.size || plain != c.plain {
			t.Errorf("%q: %v, %d bytes, plain: %v", c.text, r != nil, size, plain)
		}
	}
	r, _, _ := parseSameRequest([]byte(long), path)
	if r.Host != "example.org:8008" || r.URL.RawQuery != "since=a%20b&timeout=3" || !reflect.DeepEqual(r.Header, http.Header{
		"User-Agent": {"x y"}, "Authorization": {"Bearer t"}, "Connection": {"keep-alive"}, "Accept": {"a", "b"},
	}) {
		t.Errorf("%+v", r)
	}
}

// What is read here is what net/http would have read.
func FuzzReadSame(f *testing.F) {
	const path = "/sync"
	f.Add([]byte("GET /sync?since=1 HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer t\r\n\r\nGET"))
	f.Add([]byte("GET /sync HTTP/1.1\r\nHost: [::1]:80\r\nA: b\r\nA:c \r\nConnection: Keep-Alive\r\n\r\n"))
	f.Fuzz(func(t *testing.T, b []byte) {
		r, size, plain := parseSameRequest(b, path)
		if r == nil {
			if size != 0 {
				t.Errorf("no request has %d bytes", size)
			}
			if more := append(bytes.Clone(b), "x"...); !plain && len(b) > 0 {
				if r, _, plain := parseSameRequest(more, path); r != nil || plain {
					t.Errorf("%q is not plain, but becomes so", b)
				}
			}
			return
		}
		in := bufio.NewReaderSize(bytes.NewReader(b), len(b)+16)
		other, err := http.ReadRequest(in)
		if err != nil {
			t.Fatalf("%q: net/http says %v", b, err)
		}
		rest, _ := io.ReadAll(in)
		if len(b)-len(rest) != size {
			t.Errorf("%q has %d bytes, found %d", b, len(b)-len(rest), size)
		}
		if other.Close || other.Body != http.NoBody || other.ContentLength != 0 {
			t.Errorf("%q is more than was read", b)
		}
		if r.Method != other.Method || r.Proto != other.Proto || r.ProtoMajor != other.ProtoMajor || r.ProtoMinor != other.ProtoMinor ||
			r.Host != other.Host ||
			r.RequestURI != other.RequestURI || *r.URL != *other.URL ||
			!reflect.DeepEqual(r.Header, other.Header) {
			t.Errorf("%q: %+v, net/http reads %+v", b, r, other)
		}
		if strings.Contains(r.URL.RawQuery, "#") {
			t.Error("a fragment")
		}
	})
}
