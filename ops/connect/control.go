package connect

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"io"
	"net"
	"net/http"
	"time"

	"lyceum/fleet"
)

// Control asks the process that runs over the same data directory.
type Control struct{ http *http.Client }

// Running is nil when no process with the same database runs over the data directory.
func Running(c *fleet.Config) *Control {
	path := c.ControlSocket()
	conn, err := net.Dial("unix", path)
	if err != nil {
		return nil
	}
	_ = conn.Close() // it was only to see whether a process listens
	dial := func(ctx context.Context, _, _ string) (net.Conn, error) {
		return (&net.Dialer{}).DialContext(ctx, "unix", path)
	}
	client := &Control{&http.Client{Transport: &http.Transport{DialContext: dial}}}
	if c.Embedded() {
		return client
	}
	ctx, cancel := context.WithTimeout(context.Background(), controlWait)
	defer cancel()
	var database string
	if err := client.Call(ctx, http.MethodGet, "/database", nil, &database); err != nil || database != c.DatabaseFingerprint() {
		return nil
	}
	return client
}

// controlWait is how long a process is waited for that may be of a version without an answer.
const controlWait = 5 * time.Second

// Call sends body as JSON and reads the answer into out.
func (c *Control) Call(ctx context.Context, method, path string, body, out any) error {
	text, err := json.Marshal(body)
	if err != nil {
		return err
	}
	req, err := http.NewRequestWithContext(ctx, method, "http://control"+path, bytes.NewReader(text))
	if err != nil {
		return err
	}
	res, err := c.http.Do(req)
	if err != nil {
		return err
	}
	defer res.Body.Close()
	if res.StatusCode != http.StatusOK {
		said, _ := io.ReadAll(io.LimitReader(res.Body, 4<<10))
		return errors.New(string(said))
	}
	return json.NewDecoder(res.Body).Decode(out)
}
