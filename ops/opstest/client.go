package opstest

import (
	"bytes"
	"context"
	"encoding/json"
	"io"
	"net/http"
	"testing"

	"github.com/tidwall/gjson"
)

// Client is a user of a site.
type Client struct {
	Site      *Site
	ID, Token string
}

func (c *Client) Try(ctx context.Context, method, path string, body any) (int, []byte, error) {
	var in io.Reader
	kind := "application/json"
	switch b := body.(type) {
	case nil:
	case []byte:
		in, kind = bytes.NewReader(b), "application/x-test"
	default:
		text, err := json.Marshal(b)
		if err != nil {
			return 0, nil, err
		}
		in = bytes.NewReader(text)
	}
	req, err := http.NewRequestWithContext(ctx, method, c.Site.URL+path, in)
	if err != nil {
		return 0, nil, err
	}
	req.Header.Set("Content-Type", kind)
	if c.Token != "" {
		req.Header.Set("Authorization", "Bearer "+c.Token)
	}
	res, err := http.DefaultClient.Do(req)
	if err != nil {
		return 0, nil, err
	}
	defer res.Body.Close()
	text, err := io.ReadAll(res.Body)
	return res.StatusCode, text, err
}

func (c *Client) Do(t *testing.T, method, path string, body any) gjson.Result {
	t.Helper()
	status, text, err := c.Try(t.Context(), method, path, body)
	if err != nil || status != 200 {
		t.Fatalf("%s %s: %d %s %v", method, path, status, text, err)
	}
	return gjson.ParseBytes(text)
}

func (s *Site) Register(t *testing.T, name string) *Client {
	t.Helper()
	c := &Client{Site: s}
	a := c.Do(t, "POST", "/_matrix/client/v3/register",
		map[string]any{"username": name, "password": "password of " + name, "auth": map[string]string{"type": "m.login.dummy"}})
	c.ID, c.Token = a.Get("user_id").String(), a.Get("access_token").String()
	return c
}

func (c *Client) At(s *Site) *Client { return &Client{s, c.ID, c.Token} }
