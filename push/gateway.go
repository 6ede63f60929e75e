package push

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"time"

	"lyceum/platform/dial"
)

// gateway sends requests to push gateways, whose addresses users choose.
type gateway struct {
	client *http.Client
}

const (
	sendWithin = 10 * time.Second
	maxAnswer  = 64 << 10
)

func newGateway(c Config) gateway {
	return gateway{dial.New(dial.Options{Allow: c.AllowPrivate, Setting: "push.allow_private", Within: sendWithin}).Client()}
}

// send posts a notification and returns the pushkeys that the gateway rejects.
func (g *gateway) send(ctx context.Context, url string, body []byte) (rejected []string, err error) {
	ctx, cancel := context.WithTimeout(ctx, sendWithin)
	defer cancel()
	req, err := http.NewRequestWithContext(ctx, http.MethodPost, url, bytes.NewReader(body))
	if err != nil {
		return nil, err
	}
	req.Header.Set("Content-Type", "application/json")
	res, err := g.client.Do(req)
	if err != nil {
		return nil, err
	}
	defer res.Body.Close()
	answer, err := io.ReadAll(io.LimitReader(res.Body, maxAnswer))
	if err != nil {
		return nil, err
	}
	if res.StatusCode != http.StatusOK {
		return nil, fmt.Errorf("expected status 200 of the push gateway, found %d", res.StatusCode)
	}
	return decodeRejected(answer)
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
