package up

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"strings"
	"time"

	"lyceum/fleet"
)

// Client asks a running lyceum up.
type Client struct{ http *http.Client }

// FindSupervisor finds the lyceum up that runs over a data directory.
func FindSupervisor(data string) (*Client, error) {
	path := fleet.SupervisorSocket(data)
	conn, err := net.Dial("unix", path)
	if errors.Is(err, os.ErrPermission) {
		return nil, fmt.Errorf("whether a lyceum up runs over %s can not be seen: %w: run this as the user who runs it", data, err)
	}
	if err != nil {
		return nil, fmt.Errorf("no lyceum up runs over %s: start one with lyceum up --data %s, or name its directory with --data", data, data)
	}
	_ = conn.Close() // it was only to see whether one listens
	dial := func(ctx context.Context, _, _ string) (net.Conn, error) {
		return (&net.Dialer{}).DialContext(ctx, "unix", path)
	}
	return &Client{&http.Client{Transport: &http.Transport{DialContext: dial}}}, nil
}

// Children lists the processes.
func (s *Client) Children(ctx context.Context) (out []ChildState, err error) {
	return out, s.call(ctx, "ps", request{}, &out)
}

// Servers lists PostgreSQL and Redis as far as lyceum up started them; none when it is too old to tell.
func (s *Client) Servers(ctx context.Context) (out []ChildState, err error) {
	if err := s.call(ctx, "servers", request{}, &out); err != nil && !errors.Is(err, errTooOld) {
		return nil, err
	}
	return out, nil
}

// Scale makes a group have n processes.
func (s *Client) Scale(ctx context.Context, group string, n int) (said string, err error) {
	return said, s.call(ctx, "scale", request{Target: group, Count: n}, &said)
}

// Restart replaces one process by a new one of program; "" is the program it has.
func (s *Client) Restart(ctx context.Context, name, program string) (now ChildState, err error) {
	return now, s.call(ctx, "restart", request{Target: name, Program: program}, &now)
}

// Idle returns an error while another change is under way. The lyceum up of an older version does not tell.
func (s *Client) Idle(ctx context.Context) error {
	if err := s.call(ctx, "idle", request{}, nil); !errors.Is(err, errTooOld) {
		return err
	}
	return nil
}

// Find lists the processes that a word means.
func (s *Client) Find(ctx context.Context, word string) (out []ChildState, err error) {
	return out, s.call(ctx, "find", request{Target: word}, &out)
}

// Program tells which binary new processes are made of, and sets it when given.
func (s *Client) Program(ctx context.Context, program string) (now string, err error) {
	return now, s.call(ctx, "program", request{Program: program}, &now)
}

// Stop ends the whole fleet and returns when it is gone.
func (s *Client) Stop(ctx context.Context) error {
	var said string
	if err := s.call(ctx, "stop", request{}, &said); err != nil {
		return err
	}
	for s.call(ctx, "ps", request{}, nil) == nil { // it answers until all is gone
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-time.After(50 * time.Millisecond):
		}
	}
	return nil
}

// quick are the requests that lyceum up answers at once, so that their answer has a time limit.
var quick = map[string]bool{"ps": true, "servers": true, "find": true, "program": true, "idle": true, "stop": true}

// answerTimeout is that limit.
const answerTimeout = 2 * time.Minute

func (s *Client) call(ctx context.Context, op string, r request, out any) error {
	text, err := json.Marshal(r)
	if err != nil {
		return err
	}
	req, err := http.NewRequestWithContext(ctx, http.MethodPost, "http://up/"+op, bytes.NewReader(text))
	if err != nil {
		return err
	}
	if quick[op] {
		wait, cancel := context.WithTimeout(ctx, answerTimeout)
		defer cancel()
		req = req.WithContext(wait)
		defer time.AfterFunc(reportSlowAfter, func() {
			fmt.Fprintf(os.Stderr, "lyceum up has not answered for %s: it is waited for, up to %s\n", reportSlowAfter, answerTimeout)
		}).Stop()
	}
	res, err := s.http.Do(req)
	if errors.Is(err, context.DeadlineExceeded) && ctx.Err() == nil {
		return fmt.Errorf("lyceum up did not answer within %s: is it stopped, or its machine?", answerTimeout)
	}
	if err != nil && ctx.Err() == nil {
		return errStopped
	}
	if err != nil {
		return err
	}
	defer res.Body.Close()
	if res.StatusCode == http.StatusNotFound {
		return errTooOld
	}
	if res.StatusCode != http.StatusOK {
		text, _ := io.ReadAll(io.LimitReader(res.Body, 64<<10))
		said := strings.TrimSpace(string(text))
		for _, known := range []error{errStopped, errOtherChange} {
			if said == known.Error() {
				return known
			}
		}
		return errors.New(said)
	}
	if out == nil {
		return nil
	}
	return json.NewDecoder(res.Body).Decode(out)
}

// errTooOld is the answer of a lyceum up of an older version.
var errTooOld = errors.New("this lyceum up is too old for that: start it again")

// Answers of a lyceum up that are told apart.
var (
	errStopped     = errors.New("lyceum up was stopped")
	errOtherChange = errors.New("another change is under way: try again when it has ended")
)
