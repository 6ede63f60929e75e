package proxy

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"encoding/json"
	"encoding/pem"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"testing"
	"time"

	"lyceum/platform/engines"
)

// TestTLS ends TLS at the balancer, redirects to it and says so to browsers and processes.
func TestTLS(t *testing.T) {
	stranger := httptest.NewTLSServer(nil)
	certificate := stranger.TLS.Certificates[0]
	pool := x509.NewCertPool()
	pool.AddCert(stranger.Certificate())
	stranger.Close()
	key, err := x509.MarshalPKCS8PrivateKey(certificate.PrivateKey)
	if err != nil {
		t.Fatal(err)
	}
	keyPEM := pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: key})
	chain := append(pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: certificate.Certificate[0]}), keyPEM...)
	dir := t.TempDir()
	chainFile, keyFile := filepath.Join(dir, "chain.pem"), filepath.Join(dir, "key.pem")
	for name, text := range map[string][]byte{chainFile: chain, keyFile: keyPEM} {
		if err := os.WriteFile(name, text, 0o600); err != nil {
			t.Fatal(err)
		}
	}
	for _, p := range proxies {
		t.Run(p.name, func(t *testing.T) {
			port, err := engines.FreePort()
			if err != nil {
				t.Fatal(err)
			}
			f := &fleet{t: t, in: Input{Roles: tableRoles, Routes: table(t), TLSCertificate: chainFile, TLSKey: keyFile, HSTS: true}}
			r := startReplica(t, "router-0")
			f.in.Backends = map[string]Backend{"router": {Servers: []string{r.server.Listener.Addr().String()}}}
			f.in.ServerName = "example.com"
			f.in.Redirect = net.JoinHostPort("127.0.0.1", strconv.Itoa(port))
			f.start(p)
			transport := &http.Transport{TLSClientConfig: &tls.Config{RootCAs: pool, ServerName: "example.com"}, ForceAttemptHTTP2: true}
			defer transport.CloseIdleConnections()
			ctx, cancel := context.WithTimeout(t.Context(), 20*time.Second)
			defer cancel()
			request, _ := http.NewRequestWithContext(ctx, "GET", "https://"+f.proxy.Addr()+"/_matrix/client/versions", nil)
			request.Host = "example.com"
			response, err := transport.RoundTrip(request)
			if err != nil {
				t.Fatal(err)
			}
			var answer told
			err = json.NewDecoder(response.Body).Decode(&answer)
			response.Body.Close()
			if err != nil {
				t.Fatal(err)
			}
			if response.ProtoMajor != 2 || response.Header.Get("Strict-Transport-Security") == "" {
				t.Errorf("%s %v", response.Proto, response.Header)
			}
			if got := answer.Headers.Values("X-Forwarded-Proto"); !slices.Equal(got, []string{"https"}) {
				t.Errorf("X-Forwarded-Proto: %q", got)
			}
			request, _ = http.NewRequestWithContext(ctx, "POST", "http://"+f.in.Redirect+"/a?b", nil)
			request.Host = "example.com"
			response, err = transport.RoundTrip(request)
			if err != nil {
				t.Fatal(err)
			}
			response.Body.Close()
			if response.StatusCode != 308 || response.Header.Get("Location") != "https://example.com/a?b" {
				t.Errorf("%d %v", response.StatusCode, response.Header)
			}
		})
	}
}
