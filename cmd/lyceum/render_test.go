package main

import (
	"bytes"
	"net/url"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"lyceum/fleet"
	"lyceum/ops/opstest"
	"lyceum/platform/conf"
	"lyceum/platform/engines/enginestest"
)

// rendered is a site in a directory that lyceum render filled, without variables of its own.
func rendered(t *testing.T) (s *opstest.Site, dir string) {
	s = opstest.NewSite(t, "sqlite")
	s.Environ = nil
	return s, filepath.Join(t.TempDir(), "out")
}

func readFile(t *testing.T, path ...string) string {
	t.Helper()
	text, err := os.ReadFile(filepath.Join(path...))
	if err != nil {
		t.Fatal(err)
	}
	return string(text)
}

// TestARenderedSystemdFleetServesAndObeysTheCommandLine: processes with the environment of the units, and commands with the
// configuration alone, as the manual says.
func TestARenderedSystemdFleetServesAndObeysTheCommandLine(t *testing.T) {
	s, dir := rendered(t)
	redis, err := url.Parse(enginestest.TestRedis(t))
	if err != nil {
		t.Fatal(err)
	}
	password, _ := redis.User.Password()
	out := s.MustRun(t, "render", "systemd", "--server-name", "example.org", "--users", "1000", "-o", dir,
		"--postgres", enginestest.TestPostgres(t), "--redis", redis.Host, "--set", "redis.password="+password,
		"--set", "redis.prefix="+enginestest.Unique(), "--set", "accounts.registration=closed", "--set", "accounts.shared_secret=a shared secret")
	if strings.Contains(out, "REPLACE") {
		t.Errorf("nothing is left to fill:\n%s", out)
	}
	here := strings.NewReplacer("/etc/lyceum", filepath.Join(dir, "lyceum"), "/var/lib/lyceum", filepath.Join(dir, "state"))
	config := filepath.Join(dir, "here.yaml")
	if err := os.WriteFile(config, []byte(here.Replace(readFile(t, dir, "lyceum", "lyceum.yaml"))), 0o600); err != nil {
		t.Fatal(err)
	}
	program, err := opstest.Program()
	if err != nil {
		t.Fatal(err)
	}
	for _, id := range []string{"0", "1"} { // two of all roles are as much a fleet as nine
		cmd := exec.Command(program, "serve", "--config", config)
		unit := strings.NewReplacer("%i", id, "%S", filepath.Join(dir, "state"), "%d", filepath.Join(dir, "lyceum", "secrets"))
		for line := range strings.Lines(unit.Replace(readFile(t, dir, "system", "lyceum@.service"))) {
			if variable, ok := strings.CutPrefix(strings.TrimSpace(line), "Environment="); ok {
				cmd.Env = append(cmd.Env, variable)
			}
		}
		var log bytes.Buffer
		cmd.Stdout, cmd.Stderr, cmd.Dir = &log, &log, t.TempDir()
		if err := cmd.Start(); err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() {
			_ = cmd.Process.Signal(syscall.SIGTERM)
			_ = cmd.Wait()
			if t.Failed() {
				t.Logf("machine %s:\n%s", id, log.String())
			}
		})
	}
	for until := time.Now().Add(time.Minute); ; time.Sleep(200 * time.Millisecond) {
		status, err := s.Run(t, "status", "--config", config)
		if err == nil && strings.Contains(status, ", 2 processes,") || time.Now().After(until) {
			t.Logf("%v\n%s", err, status)
			break
		}
	}
	if out := s.MustRun(t, "user", "add", "--admin", "alice", "--config", config); !strings.Contains(out, "made @alice:example.org") {
		t.Errorf("user add: %s", out)
	}
	if out := s.MustRun(t, "user", "list", "--config", config); !strings.Contains(out, "administrator") {
		t.Errorf("user list: %s", out)
	}
	s.MustRun(t, "backup", filepath.Join(dir, "backup.tar.zst"), "--config", config)
}

// TestRenderersTakeTheConfiguration: what an operator configured is in what is rendered, secrets in files of their own, and what
// contradicts the rendering is refused.
func TestRenderersTakeTheConfiguration(t *testing.T) {
	s, dir := rendered(t)
	file := filepath.Join(t.TempDir(), "mine.yaml")
	if err := os.WriteFile(file, []byte("server: {name: example.org}\nmedia: {max_upload: 7MiB}\nfleet: {secret: a secret of 24 characters}\n"+
		"redis: {prefix: mine}\nhttp: {trusted_proxies: [10.9.0.0/16], shutdown_timeout: 60s, rate_limits: {login: {per_second: 1, burst: 5}}}\n"+
		"blob: {s3: {region: eu-west-1, retries: 7}}\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	for _, kind := range []string{"systemd", "compose", "kubernetes"} {
		to := filepath.Join(dir, kind)
		s.MustRun(t, "render", kind, "--config", file, "--set", "accounts.registration=closed",
			"--set", "accounts.shared_secret=some shared secret", "--users", "1000", "-o", to)
		name := map[string]string{"systemd": "lyceum/lyceum.yaml"}[kind]
		if name == "" {
			name = "lyceum.yaml"
		}
		text := readFile(t, to, name)
		if strings.Contains(text, "some shared secret") || strings.Contains(text, "24 characters") {
			t.Errorf("%s: the configuration holds secrets:\n%s", kind, text)
		}
		secrets := t.TempDir()
		for _, from := range []string{"/etc/lyceum/secrets", "/run/secrets/lyceum", "/run/secrets"} {
			text = strings.ReplaceAll(text, from, secrets)
		}
		for _, secret := range []string{"database-url", "redis-password", "s3-secret-key", "fleet-secret", "accounts-shared-secret"} {
			value := map[string]string{"database-url": "postgres://a:b@c/d", "fleet-secret": "a secret of 24 characters"}[secret]
			if err := os.WriteFile(filepath.Join(secrets, secret), []byte(value+"x"), 0o600); err != nil {
				t.Fatal(err)
			}
		}
		here := filepath.Join(secrets, "here.yaml")
		if err := os.WriteFile(here, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
		c, err := fleet.Load(conf.Sources{File: here, Environ: []string{}})
		if err != nil {
			t.Fatalf("%s: %v\n%s", kind, err, text)
		}
		if c.Redis.Prefix != "mine" || c.HTTP.RateLimits["login"].Burst != 5 || c.HTTP.ShutdownTimeout.String() != "1m" ||
			!strings.Contains(strings.Join(c.HTTP.TrustedProxies, " "), "10.9.0.0/16") || c.Blob.S3.Retries != 7 ||
			!strings.Contains(text, "max_upload: \"7MiB\"") || !strings.Contains(text, "registration: \"closed\"") {
			t.Errorf("%s lost a key:\n%s", kind, text)
		}
	}
	if got := readFile(t, dir, "compose", "secrets", "accounts-shared-secret"); got != "some shared secret" {
		t.Errorf("compose: %q", got)
	}
	if got := readFile(t, dir, "systemd", "lyceum", "secrets", "fleet-secret"); got != "a secret of 24 characters\n" {
		t.Errorf("systemd: %q", got)
	}
	if text := readFile(t, dir, "kubernetes", "secret.yaml"); !strings.Contains(text, "accounts-shared-secret: \"some shared secret\"") ||
		!strings.Contains(text, "fleet-secret: \"a secret of 24 characters\"") {
		t.Errorf("secret.yaml:\n%s", text)
	}
}

// TestFilesOfAnEarlierRenderingAreNamed: what this rendering has no more, such as processes of a larger plan and the secret of a key
// that was taken out, is told; the rest of the directory is the operator's.
func TestFilesOfAnEarlierRenderingAreNamed(t *testing.T) {
	s, dir := rendered(t)
	render := func(kind string, more ...string) string {
		return s.MustRun(t, append([]string{"render", kind, "--server-name", "example.org", "-o", filepath.Join(dir, kind)}, more...)...)
	}
	for kind, more := range map[string][]string{
		"systemd": {"--users", "3000", "--set", "redis.password=secret"}, "kubernetes": {"--users", "3000"}, "compose": {"--users", "1000"},
	} {
		if out := render(kind, more...); strings.Contains(out, "earlier rendering") {
			t.Errorf("%s, the first time: %s", kind, out)
		}
		mine := filepath.Join(dir, kind, "patch.yaml")
		if err := os.WriteFile(mine, []byte("mine"), 0o600); err != nil {
			t.Fatal(err)
		}
		less := []string{"--users", "50"}
		if kind == "systemd" {
			less = append(less, "--postgres", "127.0.0.1:5432")
		}
		out := render(kind, less...)
		for _, line := range map[string][]string{
			"systemd":    {"lyceum@8.service.d/role.conf is of an earlier", "secrets/redis-password is of an earlier"},
			"kubernetes": {"role-events.yaml is of an earlier"},
		}[kind] {
			if !strings.Contains(out, line) {
				t.Errorf("%s: expected %q in:\n%s", kind, line, out)
			}
		}
		if strings.Contains(out, "patch.yaml") || strings.Contains(out, "lyceum.yaml is") {
			t.Errorf("%s: %s", kind, out)
		}
	}
}

// TestAnotherEngineIsNotRenderedOverAServer: its processes would serve an empty database. Without the renderer's help the processes
// themselves refuse the directory of the other server, above or below theirs.
func TestAnotherEngineIsNotRenderedOverAServer(t *testing.T) {
	s, dir := rendered(t)
	over := []string{"--users", "1000", "--postgres", enginestest.TestPostgres(t), "--redis", "127.0.0.1:1"}
	render := func(to string, more ...string) []string {
		return append([]string{"render", "systemd", "--server-name", "example.org", "-o", filepath.Join(dir, to)}, more...)
	}
	s.MustRun(t, render("fleet", over...)...)
	s.MustRun(t, render("one")...)
	before := readFile(t, dir, "fleet", "lyceum", "lyceum.yaml") + readFile(t, dir, "one", "lyceum", "lyceum.yaml")
	s.MustFail(t, []string{"lyceum.yaml is of a server over PostgreSQL", "--postgres"}, render("fleet")...)
	s.MustFail(t, []string{"lyceum.yaml is of a server over SQLite", "lyceum backup", "lyceum restore"}, render("one", over...)...)
	if before != readFile(t, dir, "fleet", "lyceum", "lyceum.yaml")+readFile(t, dir, "one", "lyceum", "lyceum.yaml") {
		t.Error("what was refused changed the files")
	}
	fleet := filepath.Join(dir, "fleet", "lyceum", "lyceum.yaml")
	edited := strings.ReplaceAll(readFile(t, fleet), "  ", "    ") // as an editor may leave it
	if err := os.WriteFile(fleet, []byte(edited), 0o600); err != nil {
		t.Fatal(err)
	}
	s.MustRun(t, render("fleet", over...)...)
	s.MustRun(t, render("one")...)

	state := t.TempDir()
	sqlite, postgres := filepath.Join(state, "sqlite"), filepath.Join(state, "postgres")
	over = []string{"LYCEUM_DATABASE_URL=" + enginestest.TestPostgres(t)}
	named := []string{"--server-name", "example.org", "--data"}
	serve := append([]string{"serve", "--listen", "127.0.0.1:0"}, named...)
	add := append([]string{"user", "add", "alice"}, named...)
	s.MustRun(t, append(add, sqlite)...)
	s.Environ = over
	s.MustFail(t, []string{sqlite, "over SQLite", "is empty", "lyceum backup"}, append(serve, filepath.Join(sqlite, "0"))...)
	s.MustRun(t, append(add, filepath.Join(postgres, "0"))...)
	if err := os.WriteFile(filepath.Join(postgres, "lyceum.db"), nil, 0o600); err != nil { // of the server before it was moved
		t.Fatal(err)
	}
	s.MustRun(t, "user", "list", "--data", filepath.Join(postgres, "0"))
	if err := os.Remove(filepath.Join(postgres, "lyceum.db")); err != nil {
		t.Fatal(err)
	}
	s.Environ = nil
	s.MustFail(t, []string{filepath.Join(postgres, "0"), "LYCEUM_DATABASE_URL"}, append(serve, postgres)...)
}

// TestASmallerRenderingKeepsTheSecret with which the database is sealed: in the files of one process where a fleet was, and in the Secret,
// which may be applied without its file.
func TestASmallerRenderingKeepsTheSecret(t *testing.T) {
	s, dir := rendered(t)
	render := func(kind string, more ...string) string {
		return s.MustRun(t, append([]string{"render", kind, "--server-name", "example.org", "-o", filepath.Join(dir, kind)}, more...)...)
	}
	render("systemd", "--users", "1000")
	secret := readFile(t, dir, "systemd", "lyceum", "secrets", "fleet-secret")
	out := render("systemd", "--users", "50", "--postgres", "127.0.0.1:5432")
	config, unit := readFile(t, dir, "systemd", "lyceum", "lyceum.yaml"), readFile(t, dir, "systemd", "system", "lyceum.service")
	if readFile(t, dir, "systemd", "lyceum", "secrets", "fleet-secret") != secret || strings.Contains(out, "fleet-secret is of") ||
		!strings.Contains(config, "fleet-secret") || !strings.Contains(unit, "fleet-secret") {
		t.Errorf("the secret of the fleet is not that of its one process:\n%s\n%s\n%s", out, config, unit)
	}
	render("kubernetes", "--postgres", "postgres://lyceum:word@postgres.internal/lyceum")
	if out := render("kubernetes"); strings.Contains(out, "secret.yaml is of") {
		t.Error(out)
	}
}

// TestRenderersRefuseWhatDoesNotFit in one line that names the key.
func TestRenderersRefuseWhatDoesNotFit(t *testing.T) {
	s, dir := rendered(t)
	for line, want := range map[string]string{
		"systemd":                           "--server-name",
		"compose":                           "--server-name",
		"systemd --server-name Example.org": "server.name: Example.org has capitals",
		"compose --server-name Example.org": "server.name: Example.org has capitals",
		"systemd --server-name example.org --redis redis.internal:6379":                        "--redis: one process",
		"systemd --server-name example.org --users 1000 --set fleet.roles=events":              "fleet.roles: each process gets its roles",
		"systemd --server-name example.org --set server.data=/srv/lyceum":                      "server.data",
		"compose --server-name example.org --set blob.directory=/srv/files":                    "blob.directory",
		"compose --server-name example.org --postgres db:5432":                                 "--postgres",
		"kubernetes --server-name example.org --set server.listen=0.0.0.0:80":                  "server.listen",
		"systemd --server-name example.org --users 1000 --redis a:1 --set redis.addresses=b:1": "redis.addresses",
		"systemd --server-name example.org --set obs.otlp_headers=a=b --server-name a.example": "LYCEUM_OBS_OTLP_HEADERS",
	} {
		s.MustFail(t, []string{want}, append(append([]string{"render"}, strings.Fields(line)...), "-o", dir)...)
	}
	opstest.NotCreated(t, dir)
	// A secret is kept, and another one is refused.
	args := []string{"render", "systemd", "--server-name", "example.org", "--users", "1000", "-o", dir}
	out := s.MustRun(t, args...)
	if path := filepath.Join(dir, "lyceum", "secrets", "database-url"); !strings.Contains(out, "write into "+path) {
		t.Errorf("the file to fill is not named:\n%s", out)
	}
	first := readFile(t, dir, "lyceum", "secrets", "fleet-secret")
	s.MustRun(t, append(args, "--postgres", "postgres://me:word@db.internal/chat")...)
	if got := readFile(t, dir, "lyceum", "secrets", "fleet-secret"); got != first {
		t.Error("the secret of the fleet was replaced")
	}
	if got := readFile(t, dir, "lyceum", "secrets", "database-url"); got != "postgres://me:word@db.internal/chat\n" {
		t.Errorf("the URL is %q", got)
	}
	s.MustFail(t, []string{"fleet-secret holds another secret"}, append(args, "--set", "fleet.secret=another secret of a fleet")...)
}

// TestAPlanThatIsTooLargeForOneMachineIsToldOf, and its figures are those of the plan.
func TestAPlanThatIsTooLargeForOneMachineIsToldOf(t *testing.T) {
	s, dir := rendered(t)
	out := s.MustRun(t, "render", "compose", "--server-name", "example.org", "--users", "20000", "-o", dir)
	if !strings.Contains(out, "one machine with 16 (--cores): take several machines with lyceum render kubernetes") {
		t.Errorf("nothing is said of the machine:\n%s", out)
	}
	compose := readFile(t, dir, "compose.yaml")
	if strings.Contains(compose, "shared_buffers=512MB") || !strings.Contains(readFile(t, dir, "lyceum.yaml"), "connections: ") {
		t.Error("the figures of the plan for PostgreSQL are not there")
	}
	for _, m := range regexp.MustCompile(`memory: "(\d+)M"`).FindAllStringSubmatch(compose, -1) {
		if n, err := strconv.Atoi(m[1]); err != nil || n < 456 {
			t.Errorf("a limit of %s MiB is less than a process may take", m[1])
		}
	}
	if out := s.MustRun(t, "render", "systemd", "--server-name", "example.org", "-o", t.TempDir()); strings.Contains(out, "--cores") {
		t.Errorf("one process is too large for the machine:\n%s", out)
	}
}

// TestKubernetesManifestsFitTheirEngines: keys for a store in the cluster, a way to the keys of a machine's role, and the namespace of
// the gateway.
func TestKubernetesManifestsFitTheirEngines(t *testing.T) {
	s, dir := rendered(t)
	args := []string{"render", "kubernetes", "--server-name", "example.org", "--users", "300", "-o", dir}
	s.MustRun(t, append(args, "--ingress", "envoy-gateway-system")...)
	config, network := readFile(t, dir, "lyceum.yaml"), readFile(t, dir, "network.yaml")
	if !strings.Contains(config, `access_key: "lyceum"`) || !strings.Contains(config, "secret_key_file") {
		t.Errorf("a store in the cluster has no keys:\n%s", config)
	}
	if !strings.Contains(network, "kubernetes.io/metadata.name: envoy-gateway-system") || strings.Contains(network, "169.254.169.254/32") {
		t.Errorf("the network policies:\n%s", network)
	}
	if text := readFile(t, dir, "role-all.yaml"); strings.Contains(text, "owns nothing") {
		t.Errorf("role-all.yaml:\n%.400s", text)
	}
	s.MustRun(t, append(args, "--s3", "https://s3.eu-west-1.amazonaws.com")...)
	config, network = readFile(t, dir, "lyceum.yaml"), readFile(t, dir, "network.yaml")
	if strings.Contains(config, "access_key") || !strings.Contains(network, "169.254.169.254/32") {
		t.Errorf("the role of a machine gives no keys:\n%s\n%s", config, network)
	}
	if !strings.Contains(config, "trusted_proxies") {
		t.Errorf("nobody says who the client is:\n%s", config)
	}
}
