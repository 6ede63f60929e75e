package media

import (
	"encoding/json"
	"strings"
	"testing"
)

func TestAnswersAreNotBelieved(t *testing.T) {
	for _, text := range []string{
		"", "{}\n", "garbage\n", `{"type":"text/html"}` + "\n<script>", `{"type":"image/png"}` + "\n",
		`{"type":"image/gif"}` + "\nGIF", `{"failure":"other"}` + "\n", `{"type":"image/png","original":true}` + "\nx",
	} {
		if a, err := readResponse([]byte(text)); err == nil {
			t.Errorf("%q was believed: %+v", text, a)
		}
	}
	head, err := json.Marshal(workerResponse{Type: "image/png"})
	if err != nil {
		t.Fatal(err)
	}
	if a, err := readResponse(append(head, "\npicture"...)); err != nil || string(a.data) != "picture" {
		t.Errorf("%+v, %v", a, err)
	}
}

func TestNames(t *testing.T) {
	for in, want := range map[string]string{
		"a.txt": "a.txt", "../../etc/passwd": ".._.._etc_passwd", "a\r\nSet-Cookie: x": "aSet-Cookie: x", "exe.\u202egnp": "exe.gnp",
		strings.Repeat("é", 200): strings.Repeat("é", 127),
	} {
		if got := cleanName(in); got != want {
			t.Errorf("%q became %q", in, got)
		}
	}
	for in, want := range map[string]string{
		"": unknownType, "image/png": "image/png", "x": unknownType, "text/plain; charset=utf-8": "text/plain; charset=utf-8",
		"a/b\r\nc: d": unknownType,
	} {
		if got := cleanType(in); got != want {
			t.Errorf("%q became %q", in, got)
		}
	}
}
