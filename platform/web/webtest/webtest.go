package webtest

import (
	"bytes"
	"context"
	"encoding/json"
	"io"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"

	"github.com/tidwall/gjson"

	"lyceum/platform/web"
)

// People are the tokens that a test knows, and whom they belong to. It is a web.Authenticator.
type People map[string]*web.Identity

// Authenticate finds a token; others are 401 M_UNKNOWN_TOKEN.
func (p People) Authenticate(_ context.Context, token string) (*web.Identity, error) {
	if identity := p[token]; identity != nil {
		return identity, nil
	}
	return nil, &web.Error{Status: http.StatusUnauthorized, Code: "M_UNKNOWN_TOKEN", Message: "The token is not known"}
}

// Client calls routes as somebody.
type Client struct {
	t       testing.TB
	handler http.Handler
	token   string
}

// New serves routes to a client without a token. Rate limits are off.
func New(t testing.TB, authenticator web.Authenticator, routes ...web.Route) *Client {
	t.Helper()
	server, err := web.New(web.Options{Log: slog.New(slog.NewTextHandler(t.Output(), nil)), Authenticator: authenticator})
	if err != nil {
		t.Fatal(err)
	}
	server.Add(routes...)
	return &Client{t: t, handler: server.Handler()}
}

// As returns a client that calls with a token.
func (c *Client) As(token string) *Client {
	other := *c
	other.token = token
	return &other
}

// Answer is what came back.
type Answer struct {
	Status int
	Header http.Header
	Body   []byte
}

// Get picks a value of a JSON body, in the syntax of gjson.
func (a Answer) Get(path string) gjson.Result { return gjson.GetBytes(a.Body, path) }

// Errcode returns the Matrix error code, "" when there is none.
func (a Answer) Errcode() string { return a.Get("errcode").String() }

// Call sends "METHOD /path?query". body is nil, a string, bytes or a reader as they are, or any other value as JSON.
// Headers are written "Name: value".
func (c *Client) Call(target string, body any, headers ...string) Answer {
	c.t.Helper()
	method, path, _ := strings.Cut(target, " ")
	var reader io.Reader
	switch body := body.(type) {
	case nil:
	case string:
		reader = strings.NewReader(body)
	case []byte:
		reader = bytes.NewReader(body)
	case io.Reader:
		reader = body
	default:
		text, err := json.Marshal(body)
		if err != nil {
			c.t.Fatal(err)
		}
		reader = bytes.NewReader(text)
	}
	r := httptest.NewRequestWithContext(c.t.Context(), method, path, reader)
	if c.token != "" {
		r.Header.Set("Authorization", "Bearer "+c.token)
	}
	for _, line := range headers {
		name, value, _ := strings.Cut(line, ": ")
		r.Header.Add(name, value)
	}
	w := httptest.NewRecorder()
	defer func() { // the test ended meanwhile: a server would cut the connection
		if fault := recover(); fault != nil && fault != http.ErrAbortHandler { //nolint:errorlint // net/http means this very value
			panic(fault)
		}
	}()
	c.handler.ServeHTTP(w, r)
	return Answer{w.Code, w.Header(), w.Body.Bytes()}
}

// Want is Call that fails the test when the status is another.
func (c *Client) Want(status int, target string, body any) Answer {
	c.t.Helper()
	answer := c.Call(target, body)
	if answer.Status != status {
		c.t.Fatalf("%s: status %d, want %d: %s", target, answer.Status, status, answer.Body)
	}
	return answer
}

// Events calls give with each Matrix event in an answer, and with the events in those.
func Events(answer gjson.Result, give func(e gjson.Result)) {
	if answer.Get("event_id").Exists() && answer.Get("content").Exists() {
		give(answer)
	}
	if answer.IsObject() || answer.IsArray() {
		answer.ForEach(func(_, inner gjson.Result) bool {
			Events(inner, give)
			return true
		})
	}
}
