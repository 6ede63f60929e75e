package ui

import (
	"crypto/sha256"
	"embed"
	"encoding/hex"
	"io/fs"
	"path"
	"strings"
	"sync"
)

//go:embed dist
var dist embed.FS

// Base is the path under which files are served.
const Base = "/_lyceum/ui/"

// Policy is the Content-Security-Policy of every page: its own files and its own server, nothing inline, no other
// host, in no frame (CSP Level 3).
const Policy = "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self'; connect-src 'self'; " +
	"base-uri 'none'; form-action 'none'; frame-ancestors 'none'"

// File is a file as it is served.
type File struct {
	Type  string // Content-Type
	Tag   string // ETag, quoted
	Body  []byte // shared: nobody changes it
	Fixed bool   // the name it was asked by holds the hash of the content: it may be kept for ever
}

type bundle struct {
	files map[string]File   // by plain name
	names map[string]string // plain name by name with the hash
}

var types = map[string]string{
	".html": "text/html; charset=utf-8", ".js": "text/javascript; charset=utf-8", ".css": "text/css; charset=utf-8",
	".svg": "image/svg+xml", ".txt": "text/plain; charset=utf-8",
}

// load reads dist once. Pages come last: they name the other files with their hashes.
var load = sync.OnceValue(func() *bundle {
	b := &bundle{files: map[string]File{}, names: map[string]string{}}
	entries, err := fs.ReadDir(dist, "dist")
	if err != nil {
		panic(err) // embedded: the compiler has seen it
	}
	var pages []string
	hashed := map[string]string{}
	for _, e := range entries {
		name := e.Name()
		if path.Ext(name) == ".html" {
			pages = append(pages, name)
			continue
		}
		body, _ := dist.ReadFile("dist/" + name) // embedded
		sum := hash(body)
		b.files[name] = File{Type: types[path.Ext(name)], Tag: `"` + sum + `"`, Body: body}
		long := strings.TrimSuffix(name, path.Ext(name)) + "." + sum + path.Ext(name)
		b.names[long] = name
		hashed[name] = long
	}
	for _, name := range pages {
		body, _ := dist.ReadFile("dist/" + name) // embedded
		text := string(body)
		for plain, long := range hashed {
			text = strings.ReplaceAll(text, `"`+Base+plain+`"`, `"`+Base+long+`"`)
		}
		b.files[name] = File{Type: types[".html"], Tag: `"` + hash([]byte(text)) + `"`, Body: []byte(text)}
	}
	return b
})

func hash(body []byte) string {
	sum := sha256.Sum256(body)
	return hex.EncodeToString(sum[:8])
}

// Page returns a page, such as "status". The page must exist.
func Page(name string) File { return load().files[name+".html"] }

// Asset finds a file by its name, with or without the hash of its content. While a fleet is upgraded, a page of one
// version asks a process of another for its files: a hash that is not this build's gives this build's
// file, which then is not Fixed.
func Asset(name string) (File, bool) {
	b := load()
	if plain, ok := b.names[name]; ok {
		f := b.files[plain]
		f.Fixed = true
		return f, true
	}
	if parts := strings.Split(name, "."); len(parts) == 3 && len(parts[1]) == 16 {
		name = parts[0] + "." + parts[2]
	}
	f, ok := b.files[name]
	if path.Ext(name) == ".html" {
		ok = false // pages have paths of their own
	}
	return f, ok
}
