package push

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/netip"
	"syscall"
	"time"
)

// gateway sends requests to push gateways, whose addresses users choose.
type gateway struct {
	client *http.Client
}

// errPrivate says that a gateway is at an address that must not be reached from outside.
var errPrivate = errors.New("expected a public address of the push gateway, found a private one: push.allow_private allows exceptions")

const (
	sendWithin = 10 * time.Second
	maxAnswer  = 64 << 10
)

func newGateway(c Config) gateway {
	dialer := &net.Dialer{
		Timeout: 5 * time.Second,
		// Control sees the address that the name was resolved to, so a name can not hide it.
		Control: func(_, address string, _ syscall.RawConn) error { return mayReach(c.AllowPrivate, address) },
	}
	return gateway{&http.Client{
		Timeout: sendWithin,
		Transport: &http.Transport{
			DialContext: dialer.DialContext, ForceAttemptHTTP2: true, MaxIdleConnsPerHost: 8, IdleConnTimeout: time.Minute,
			TLSHandshakeTimeout: 5 * time.Second, ResponseHeaderTimeout: sendWithin, MaxResponseHeaderBytes: 32 << 10,
		},
		CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse },
	}}
}

// special are networks that netip has no word for and that are not of the public internet (RFC 6890).
var special = []netip.Prefix{
	netip.MustParsePrefix("0.0.0.0/8"), netip.MustParsePrefix("100.64.0.0/10"), netip.MustParsePrefix("192.0.0.0/24"),
	netip.MustParsePrefix("192.0.2.0/24"), netip.MustParsePrefix("198.18.0.0/15"), netip.MustParsePrefix("198.51.100.0/24"),
	netip.MustParsePrefix("203.0.113.0/24"), netip.MustParsePrefix("240.0.0.0/4"), netip.MustParsePrefix("64:ff9b::/96"),
	netip.MustParsePrefix("64:ff9b:1::/48"), netip.MustParsePrefix("100::/64"), netip.MustParsePrefix("2001::/23"),
	netip.MustParsePrefix("2001:db8::/32"), netip.MustParsePrefix("2002::/16"), netip.MustParsePrefix("fec0::/10"),
}

// mayReach refuses addresses that are not of the public internet, except those in allowed.
func mayReach(allowed []netip.Prefix, address string) error {
	at, err := netip.ParseAddrPort(address)
	if err != nil {
		return err
	}
	ip := at.Addr().WithZone("").Unmap()
	for _, network := range allowed {
		if network.Contains(ip) {
			return nil
		}
	}
	private := !ip.IsGlobalUnicast() || ip.IsPrivate() || ip.IsLoopback() || ip.IsLinkLocalUnicast()
	for _, network := range special {
		private = private || network.Contains(ip)
	}
	if private {
		return fmt.Errorf("%s: %w", ip, errPrivate)
	}
	return nil
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
