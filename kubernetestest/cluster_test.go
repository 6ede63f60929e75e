//go:build kubernetes

package kubernetestest

import (
	"bytes"
	"crypto/rand"
	"crypto/rsa"
	"crypto/tls"
	"crypto/x509"
	"encoding/json"
	"encoding/pem"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
)

const token = "token-of-the-operator"

// plane is a control plane that the test started.
type plane struct {
	t      *testing.T
	dir    string
	url    string
	client *http.Client
}

func freePort(t *testing.T) int {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	return l.Addr().(*net.TCPAddr).Port
}

// start runs a program until the test ends, and shows the end of its log when the test failed.
func (p *plane) start(name string, args ...string) {
	p.t.Helper()
	out, err := os.Create(filepath.Join(p.dir, filepath.Base(name)+".log"))
	if err != nil {
		p.t.Fatal(err)
	}
	cmd := exec.Command(name, args...)
	cmd.Stdout, cmd.Stderr = out, out
	cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
	if err := cmd.Start(); err != nil {
		p.t.Fatal(err)
	}
	p.t.Cleanup(func() {
		_ = cmd.Process.Signal(syscall.SIGTERM)
		kill := time.AfterFunc(10*time.Second, func() { _ = cmd.Process.Kill() })
		_ = cmd.Wait()
		kill.Stop()
		out.Close()
		if p.t.Failed() {
			text, _ := os.ReadFile(out.Name())
			p.t.Logf("%s said at last:\n%s", filepath.Base(name), text[max(0, len(text)-1500):])
		}
	})
}

func startPlane(t *testing.T) *plane {
	t.Helper()
	bin := os.Getenv("KUBERNETES_BIN")
	if bin == "" {
		t.Skip("KUBERNETES_BIN is not set: kubernetestest/run sets it")
	}
	p := &plane{t: t, dir: t.TempDir()}
	file := func(name, text string) string {
		path := filepath.Join(p.dir, name)
		if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
		return path
	}
	key, err := rsa.GenerateKey(rand.Reader, 2048)
	if err != nil {
		t.Fatal(err)
	}
	public, err := x509.MarshalPKIXPublicKey(&key.PublicKey)
	if err != nil {
		t.Fatal(err)
	}
	signing := file("sa.key", string(pem.EncodeToMemory(&pem.Block{Type: "RSA PRIVATE KEY", Bytes: x509.MarshalPKCS1PrivateKey(key)})))
	verifying := file("sa.pub", string(pem.EncodeToMemory(&pem.Block{Type: "PUBLIC KEY", Bytes: public})))
	tokens := file("tokens.csv", token+",operator,operator,system:masters\n")

	client, peer, api := freePort(t), freePort(t), freePort(t)
	etcd := fmt.Sprintf("http://127.0.0.1:%d", client)
	peers := fmt.Sprintf("http://127.0.0.1:%d", peer)
	p.start(
		"etcd",
		"--name",
		"default",
		"--data-dir",
		filepath.Join(p.dir, "etcd"),
		"--listen-client-urls",
		etcd,
		"--advertise-client-urls",
		etcd,
		"--listen-peer-urls",
		peers,
		"--initial-advertise-peer-urls",
		peers,
		"--initial-cluster",
		"default="+peers,
	)
	p.url = fmt.Sprintf("https://127.0.0.1:%d", api)
	p.start(
		filepath.Join(bin, "kube-apiserver"),
		"--etcd-servers",
		etcd,
		"--bind-address",
		"127.0.0.1",
		"--secure-port",
		fmt.Sprint(api),
		"--cert-dir",
		filepath.Join(p.dir, "certificates"),
		"--service-cluster-ip-range",
		"10.0.0.0/16",
		"--service-account-issuer",
		"https://kubernetes.default.svc",
		"--service-account-key-file",
		verifying,
		"--service-account-signing-key-file",
		signing,
		"--token-auth-file",
		tokens,
		"--authorization-mode",
		"RBAC",
	)
	file("kubeconfig", fmt.Sprintf(`apiVersion: v1
kind: Config
current-context: test
clusters: [{name: test, cluster: {server: %q, insecure-skip-tls-verify: true}}]
users: [{name: operator, user: {token: %q}}]
contexts: [{name: test, context: {cluster: test, user: operator}}]
`, p.url, token))
	// The certificate is one that the server made for itself a moment ago, on loopback.
	p.client = &http.Client{Timeout: 20 * time.Second, Transport: &http.Transport{TLSClientConfig: &tls.Config{InsecureSkipVerify: true}}}
	began := time.Now()
	p.until("the API server is ready", time.Minute, func() bool {
		code, _ := p.call("GET", "/readyz", "", nil)
		return code == http.StatusOK
	})
	t.Logf("the API server was ready after %s", time.Since(began).Round(time.Millisecond))
	p.start(
		filepath.Join(bin, "kube-controller-manager"),
		"--kubeconfig",
		filepath.Join(p.dir, "kubeconfig"),
		"--leader-elect=false",
		"--secure-port",
		"0",
		"--service-account-private-key-file",
		signing,
		"--horizontal-pod-autoscaler-sync-period",
		"2s",
		"--bind-address",
		"127.0.0.1",
		"--controllers",
		"*,-node-lifecycle-controller",
	) // it would find the nodes dead, as no kubelet reports
	return p
}

func (p *plane) until(what string, within time.Duration, ok func() bool) {
	p.t.Helper()
	for deadline := time.Now().Add(within); !ok(); time.Sleep(200 * time.Millisecond) {
		if time.Now().After(deadline) {
			p.t.Fatalf("waited in vain for %s until %s", within, what)
		}
	}
}

// call asks the API server.
func (p *plane) call(method, path, contentType string, body []byte) (int, []byte) {
	request, err := http.NewRequest(method, p.url+path, bytes.NewReader(body))
	if err != nil {
		p.t.Fatal(err)
	}
	request.Header.Set("Authorization", "Bearer "+token)
	if contentType != "" {
		request.Header.Set("Content-Type", contentType)
	}
	response, err := p.client.Do(request)
	if err != nil {
		return 0, []byte(err.Error())
	}
	defer response.Body.Close()
	text, err := io.ReadAll(response.Body)
	if err != nil {
		return 0, []byte(err.Error())
	}
	return response.StatusCode, text
}

// get reads an object or a list.
func get[T any](p *plane, path string) T {
	p.t.Helper()
	var v T
	code, text := p.call("GET", path, "", nil)
	if code != http.StatusOK {
		p.t.Fatalf("GET %s: %d %s", path, code, text)
	}
	if err := json.Unmarshal(text, &v); err != nil {
		p.t.Fatalf("GET %s: %v", path, err)
	}
	return v
}

func (p *plane) tryKubectl(args ...string) (string, error) {
	cmd := exec.Command("kubectl", args...)
	cmd.Env = append(os.Environ(), "KUBECONFIG="+filepath.Join(p.dir, "kubeconfig"), "HOME="+p.dir)
	out, err := cmd.CombinedOutput()
	return string(out), err
}

func (p *plane) kubectl(args ...string) string {
	p.t.Helper()
	out, err := p.tryKubectl(args...)
	if err != nil {
		p.t.Fatalf("kubectl %s: %v\n%s", strings.Join(args, " "), err, out)
	}
	return out
}

// kubelet takes the place of the scheduler and the kubelets: it gives every pod of a namespace one of two nodes,
// says that it runs and is ready, and that it has ended when it was deleted, until stop.
func (p *plane) kubelet(namespace string) (stop func()) {
	p.t.Helper()
	for _, zone := range []string{"a", "b"} {
		body := fmt.Sprintf(`{"metadata":{"name":"node-%s","labels":{"topology.kubernetes.io/zone":"%s"}}}`, zone, zone)
		if code, text := p.call("POST", "/api/v1/nodes", "application/json", []byte(body)); code != http.StatusCreated {
			p.t.Fatalf("make a node: %d %s", code, text)
		}
	}
	do := func(method, path, contentType string, body []byte) {
		// A pod may be gone or have changed since it was read; the next round sees it.
		if code, text := p.call(method, path, contentType, body); code >= 400 && code != http.StatusNotFound && code != http.StatusConflict {
			p.t.Errorf("%s %s: %d %s", method, path, code, text)
		}
	}
	end := make(chan struct{})
	var wg sync.WaitGroup
	wg.Go(func() {
		next := 0
		for {
			select {
			case <-end:
				return
			case <-time.After(200 * time.Millisecond):
			}
			code, text := p.call("GET", "/api/v1/namespaces/"+namespace+"/pods", "", nil)
			var pods corev1.PodList
			if code != http.StatusOK || json.Unmarshal(text, &pods) != nil {
				continue
			}
			for _, pod := range pods.Items {
				path := "/api/v1/namespaces/" + namespace + "/pods/" + pod.Name
				switch {
				case pod.DeletionTimestamp != nil:
					do("DELETE", path, "application/json", []byte(`{"gracePeriodSeconds":0}`))
				case pod.Spec.NodeName == "":
					next++
					do("POST", path+"/binding", "application/json", fmt.Appendf(
						nil,
						`{"apiVersion":"v1","kind":"Binding","metadata":{"name":%q},"target":{"apiVersion":"v1","kind":"Node","name":"node-%c"}}`,
						pod.Name,
						'a'+next%2,
					))
				case pod.Status.Phase == corev1.PodPending:
					next++
					ip := fmt.Sprintf("10.1.%d.%d", next/250, next%250+1)
					do("PATCH", path+"/status", "application/merge-patch+json", fmt.Appendf(
						nil,
						`{"status":{"phase":"Running","podIP":%q,"podIPs":[{"ip":%q}],"conditions":[{"type":"Ready","status":"True",`+
							`"lastTransitionTime":%q}]}}`,
						ip,
						ip,
						time.Now().UTC().Format(time.RFC3339),
					))
				}
			}
		}
	})
	return sync.OnceFunc(func() {
		close(end)
		wg.Wait()
	})
}
