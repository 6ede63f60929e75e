package dial

import (
	"context"
	"encoding/binary"
	"errors"
	"net"
	"net/http"
	"net/http/httptest"
	"net/netip"
	"path/filepath"
	"strings"
	"testing"
	"time"
)

func TestPublicAddresses(t *testing.T) {
	d := New(Options{})
	for _, text := range []string{
		"93.184.216.34", "1.1.1.1", "100.63.255.255", "100.128.0.0", "172.15.0.1", "172.32.0.1", "223.255.255.255", "168.63.129.17",
		"2606:2800:220:1::1", "2a00:1450:4001::1", "2400:cb00::1", "::ffff:93.184.216.34",
	} {
		if err := d.Check(netip.MustParseAddr(text)); err != nil {
			t.Errorf("%s is refused: %v", text, err)
		}
	}
	for what, list := range map[string][]string{
		"this machine": {"127.0.0.1", "127.255.255.255", "::1", "0.0.0.0", "0.1.2.3", "::"},
		"private":      {"10.0.0.1", "10.255.255.255", "172.16.0.1", "172.31.255.255", "192.168.1.1", "fc00::1", "fd00:ec2::254"},
		"link-local":   {"169.254.169.254", "fe80::1", "fe80::1%eth0", "febf::1", "fec0::1"},
		"behind CGNAT": {"100.64.0.1", "100.100.100.200", "100.127.255.255"},
		"multicast":    {"224.0.0.1", "239.255.255.255", "ff02::1", "ff0e::1"},
		"reserved": {
			"192.0.0.1", "192.0.0.192", "192.0.2.1", "198.18.0.1", "198.19.255.255", "198.51.100.1", "203.0.113.1",
			"240.0.0.1", "255.255.255.255", "100::1", "2001:db8::1", "3fff::1", "4000::1", "5f00::1",
		},
		"a cloud's":       {"168.63.129.16", "::ffff:168.63.129.16"},
		"IPv4-mapped":     {"::ffff:127.0.0.1", "::ffff:10.0.0.1", "::ffff:a9fe:a9fe", "::ffff:169.254.169.254%1"},
		"IPv4-compatible": {"::127.0.0.1", "::10.0.0.1", "::93.184.216.34"},
		"IPv4-translated": {"::ffff:0:127.0.0.1", "::ffff:0:10.0.0.1"},
		"NAT64":           {"64:ff9b::127.0.0.1", "64:ff9b::a00:1", "64:ff9b:1::10.0.0.1", "64:ff9b:1:ffff::1"},
		"6to4 and Teredo": {"2002:7f00:1::", "2002:a00:1::1", "192.88.99.1", "2001:0:4136:e378:8000:63bf:3fff:fdd2", "2001::1"},
	} {
		for _, text := range list {
			if err := d.Check(netip.MustParseAddr(text)); !errors.Is(err, ErrPrivate) {
				t.Errorf("%s (%s): expected ErrPrivate, found %v", text, what, err)
			}
		}
	}
	if err := d.Check(netip.Addr{}); err == nil {
		t.Error("no address at all is public")
	}
}

func TestAllowedNetworks(t *testing.T) {
	d := New(Options{
		Allow:   []netip.Prefix{netip.MustParsePrefix("10.1.0.0/16"), netip.MustParsePrefix("fd00:1::/32")},
		Setting: "push.allow_private",
	})
	for text, ok := range map[string]bool{
		"10.1.2.3": true, "::ffff:10.1.2.3": true, "10.2.0.1": false, "fd00:1::5": true, "fd00:2::5": false, "127.0.0.1": false,
		"::10.1.2.3": false,
	} {
		if err := d.Check(netip.MustParseAddr(text)); (err == nil) != ok {
			t.Errorf("%s: found %v", text, err)
		}
	}
	if err := d.Check(netip.MustParseAddr("10.2.0.1")); !strings.Contains(err.Error(), "push.allow_private") {
		t.Errorf("the error does not name the setting: %v", err)
	}
}

// names makes a Dialer ask a server of names of this test, which gives each name the same addresses.
func names(t *testing.T, d *Dialer, addresses ...string) {
	t.Helper()
	conn, err := net.ListenPacket("udp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { conn.Close() })
	go func() {
		buffer := make([]byte, 1500)
		for {
			n, from, err := conn.ReadFrom(buffer)
			if err != nil {
				return
			}
			if out := answer(buffer[:n], addresses); out != nil {
				_, _ = conn.WriteTo(out, from)
			}
		}
	}()
	d.net.Resolver = &net.Resolver{PreferGo: true, Dial: func(ctx context.Context, _, _ string) (net.Conn, error) {
		var plain net.Dialer
		return plain.DialContext(ctx, "udp", conn.LocalAddr().String())
	}}
}

// answer makes the answer to one question for the addresses of a name (RFC 1035, section 4).
func answer(query []byte, addresses []string) []byte {
	end := 12
	for end < len(query) && query[end] != 0 {
		end += int(query[end]) + 1
	}
	if end+5 > len(query) {
		return nil
	}
	end += 5
	kind := binary.BigEndian.Uint16(query[end-4:])
	out := append([]byte{}, query[:end]...)
	copy(out[2:], []byte{0x81, 0x80, 0, 1, 0, 0, 0, 0, 0, 0}) // an answer, one question, nothing yet
	for _, text := range addresses {
		ip := netip.MustParseAddr(text)
		if kind == 1 && !ip.Is4() || kind == 28 && !ip.Is6() || kind != 1 && kind != 28 {
			continue
		}
		out[7]++
		// the name of the question, class IN, not to be kept
		out = append(out, 0xc0, 12, byte(kind>>8), byte(kind), 0, 1, 0, 0, 0, 0, 0, byte(ip.BitLen()/8))
		out = append(out, ip.AsSlice()...)
	}
	return out
}

func get(t *testing.T, c *http.Client, url string) (*http.Response, error) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	t.Cleanup(cancel)
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, url, nil)
	if err != nil {
		t.Fatal(err)
	}
	res, err := c.Do(req)
	if err == nil {
		t.Cleanup(func() { res.Body.Close() })
	}
	return res, err
}

// serve answers on an address of this machine and a port that is given, or a free one.
func serve(t *testing.T, address string, h http.HandlerFunc) (url string) {
	t.Helper()
	l, err := net.Listen("tcp", address)
	if err != nil {
		t.Fatal(err)
	}
	s := httptest.NewUnstartedServer(h)
	s.Listener.Close()
	s.Listener = l
	s.Start()
	t.Cleanup(s.Close)
	return s.URL
}

// outside stands for a public address: one of this machine that is allowed, while its others are not.
const outside = "127.0.0.2"

func allowOutside(redirects int) *Dialer {
	return New(Options{Allow: []netip.Prefix{netip.MustParsePrefix(outside + "/32")}, Redirects: redirects, Within: time.Minute})
}

func TestNamesAreCheckedAfterTheirResolution(t *testing.T) {
	inside := serve(t, "127.0.0.1:0", func(w http.ResponseWriter, _ *http.Request) { t.Error("an address inside was reached") })
	_, port, _ := net.SplitHostPort(strings.TrimPrefix(inside, "http://"))
	serve(t, outside+":"+port, func(w http.ResponseWriter, _ *http.Request) { _, _ = w.Write([]byte("outside")) })

	for _, addresses := range [][]string{
		{"127.0.0.1"}, {"127.0.0.1", "10.0.0.1"}, {"::1"}, {"::ffff:127.0.0.1", "::1"}, {"127.0.0.1", "::1", "64:ff9b::127.0.0.1"},
	} {
		d := allowOutside(0)
		names(t, d, addresses...)
		if _, err := get(t, d.Client(), "http://gateway.test:"+port); !errors.Is(err, ErrPrivate) {
			t.Errorf("%v: expected ErrPrivate, found %v", addresses, err)
		}
	}
	for _, addresses := range [][]string{{outside}, {"127.0.0.1", outside}, {outside, "127.0.0.1"}, {"::1", "127.0.0.1", outside}} {
		d := allowOutside(0)
		names(t, d, addresses...)
		if _, err := get(t, d.Client(), "http://gateway.test:"+port); err != nil {
			t.Errorf("%v: the address that may be reached was not: %v", addresses, err)
		}
	}
	// Written numbers are names too.
	for _, host := range []string{"127.0.0.1", "[::ffff:127.0.0.1]", "localhost", "0.0.0.0", "[::]"} {
		if _, err := get(t, allowOutside(0).Client(), "http://"+host+":"+port); err == nil {
			t.Errorf("%s was reached", host)
		}
	}
}

func TestRedirects(t *testing.T) {
	inside := serve(t, "127.0.0.1:0", func(w http.ResponseWriter, _ *http.Request) { t.Error("an address inside was reached") })
	var url string
	url = serve(t, outside+":0", func(w http.ResponseWriter, r *http.Request) {
		switch r.URL.Path {
		case "/inside":
			http.Redirect(w, r, inside, http.StatusFound)
		case "/again":
			http.Redirect(w, r, url+"/again", http.StatusTemporaryRedirect)
		case "/once":
			http.Redirect(w, r, url+"/", http.StatusFound)
		}
	})
	if res, err := get(t, allowOutside(0).Client(), url+"/inside"); err != nil || res.StatusCode != http.StatusFound {
		t.Errorf("a redirect that is not to be followed: %v, %v", res, err)
	}
	if _, err := get(t, allowOutside(3).Client(), url+"/inside"); !errors.Is(err, ErrPrivate) {
		t.Errorf("a redirect to an address inside: expected ErrPrivate, found %v", err)
	}
	if _, err := get(t, allowOutside(3).Client(), url+"/again"); err == nil || !strings.Contains(err.Error(), "at most 3 redirects") {
		t.Errorf("redirects without end: found %v", err)
	}
	if res, err := get(t, allowOutside(1).Client(), url+"/once"); err != nil || res.StatusCode != http.StatusOK {
		t.Errorf("a redirect to an address that may be reached: %v, %v", res, err)
	}
	secure := httptest.NewUnstartedServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		http.Redirect(w, r, url+"/",
			http.StatusFound)
	}))
	secure.StartTLS()
	defer secure.Close()
	d := New(Options{Allow: []netip.Prefix{netip.MustParsePrefix("127.0.0.0/8")}, Redirects: 3, Within: time.Minute})
	c := d.Client()
	c.Transport.(*http.Transport).TLSClientConfig = secure.Client().Transport.(*http.Transport).TLSClientConfig
	if _, err := get(t, c, secure.URL); err == nil || !strings.Contains(err.Error(), "redirect to https") {
		t.Errorf("a redirect from https to http: found %v", err)
	}
}

func TestOnlyTCP(t *testing.T) {
	path := filepath.Join(t.TempDir(), "socket")
	l, err := net.Listen("unix", path)
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	d := New(Options{})
	for network, address := range map[string]string{"udp": "1.1.1.1:53", "unix": path} {
		if conn, err := d.DialContext(t.Context(), network, address); err == nil {
			conn.Close()
			t.Errorf("%s %s was reached", network, address)
		}
	}
}

func TestProxiesOfTheEnvironmentAreNotUsed(t *testing.T) {
	proxy := serve(t, "127.0.0.1:0", func(http.ResponseWriter, *http.Request) { t.Error("the proxy was asked") })
	t.Setenv("HTTP_PROXY", proxy)
	t.Setenv("http_proxy", proxy)
	d := New(Options{Within: time.Minute})
	names(t, d, "10.0.0.1")
	if _, err := get(t, d.Client(), "http://gateway.test/"); !errors.Is(err, ErrPrivate) {
		t.Errorf("expected ErrPrivate, found %v", err)
	}
}
