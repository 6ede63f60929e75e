package push

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/http/httptrace"
	"sync/atomic"
	"time"

	"lyceum/platform/dial"
)

// gateway sends requests to push gateways, whose addresses users choose.
type gateway struct {
	client *http.Client
}

const (
	sendWithin = time.Minute // a gateway that takes longer may get the notification a second time
	maxAnswer  = 64 << 10
)

func newGateway(c Config) gateway {
	return gateway{dial.New(dial.Options{Allow: c.AllowPrivate, Setting: "push.allow_private", Within: sendWithin}).Client()}
}

// Errors of send. Any other error means that the gateway was connected and did not answer.
var (
	errUnreachable = errors.New("the push gateway could not be connected to")
	errRefused     = errors.New("the push gateway answered with an error")
)

// send posts a notification and returns the pushkeys that the gateway rejects.
func (g *gateway) send(ctx context.Context, url string, body []byte) (rejected []string, err error) {
	ctx, cancel := context.WithTimeout(ctx, sendWithin)
	defer cancel()
	var unconnected atomic.Bool
	ctx = httptrace.WithClientTrace(ctx, &httptrace.ClientTrace{
		GetConn: func(string) { unconnected.Store(true) }, // called again when a kept connection turns out to be closed
		GotConn: func(httptrace.GotConnInfo) { unconnected.Store(false) },
	})
	req, err := http.NewRequestWithContext(ctx, http.MethodPost, url, bytes.NewReader(body))
	if err != nil {
		return nil, err
	}
	req.Header.Set("Content-Type", "application/json")
	res, err := g.client.Do(req)
	switch {
	case err != nil && unconnected.Load():
		return nil, fmt.Errorf("%w: %w", errUnreachable, err)
	case err != nil:
		return nil, err
	}
	defer res.Body.Close()
	answer, err := io.ReadAll(io.LimitReader(res.Body, maxAnswer))
	if err != nil {
		return nil, err
	}
	if res.StatusCode != http.StatusOK {
		return nil, fmt.Errorf("%w: expected status 200, found %d", errRefused, res.StatusCode)
	}
	if rejected, err = decodeRejected(answer); err != nil {
		return nil, fmt.Errorf("%w: %w", errRefused, err)
	}
	return rejected, nil
}

func decodeRejected(answer []byte) ([]string, error) {
	var v struct {
		Rejected []string `json:"rejected"`
	}
	if len(bytes.TrimSpace(answer)) == 0 {
		return nil, nil
	}
	err := json.Unmarshal(answer, &v)
	return v.Rejected, err
}
