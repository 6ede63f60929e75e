package engines

import (
	"bytes"
	"context"
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"

	"lyceum/platform/disk"
)

// Proxy is a private load balancer on a loopback port.
type Proxy struct {
	*server
	addr string
}

// Addr is host:port.
func (p *Proxy) Addr() string { return p.addr }

// balancer says how a program that balances is checked and started.
type balancer struct {
	program, remedy string
	file            string // name of its configuration
	check, run      func(file string) []string
	end             syscall.Signal
	wrap            func(dir string, config []byte) ([]byte, error) // nil: the configuration is used as it is
}

func findProxy(program, remedy string) (string, error) {
	if path, err := exec.LookPath(program); err == nil {
		return path, nil
	}
	// Not in the PATH of users on Debian.
	if path := filepath.Join("/usr/sbin", program); executable(path) {
		return path, nil
	}
	return "", missing(program, remedy)
}

// StartHAProxy checks a configuration with haproxy -c and runs it. config is given the address to listen on.
func StartHAProxy(ctx context.Context, dir string, config func(listen string) ([]byte, error)) (*Proxy, error) {
	return startProxy(ctx, dir, config, balancer{
		program: "haproxy", remedy: "apt-get install haproxy", file: "haproxy.cfg", end: syscall.SIGTERM,
		check: func(file string) []string { return []string{"-c", "-f", file} },
		run:   func(file string) []string { return []string{"-db", "-f", file} },
	})
}

// StartNginx checks a file for the http context with nginx -t and runs it. config is given the address to listen on.
func StartNginx(ctx context.Context, dir string, config func(listen string) ([]byte, error)) (*Proxy, error) {
	args := func(file string) []string { return []string{"-p", filepath.Dir(file), "-c", file, "-e", "stderr"} }
	return startProxy(ctx, dir, config, balancer{
		program: "nginx", remedy: "apt-get install nginx-light", file: "nginx.conf", end: syscall.SIGTERM,
		check: func(file string) []string { return append(args(file), "-t") },
		run:   args,
		wrap: func(dir string, config []byte) ([]byte, error) {
			if err := disk.WriteFile(filepath.Join(dir, "lyceum.conf"), config, 0o600); err != nil {
				return nil, err
			}
			user := ""
			if os.Geteuid() == 0 {
				user = "user root;\n" // the directory of a test is closed to others
			}
			var temp strings.Builder
			for _, kind := range []string{"client_body", "proxy", "fastcgi", "uwsgi", "scgi"} {
				fmt.Fprintf(&temp, "    %s_temp_path %s;\n", kind, filepath.Join(dir, kind))
			}
			return fmt.Appendf(nil, "%sdaemon off;\nworker_processes 1;\npid %s;\nevents {}\nhttp {\n    access_log off;\n%s    include %s;\n}\n",
				user, filepath.Join(dir, "nginx.pid"), temp.String(), filepath.Join(dir, "lyceum.conf")), nil
		},
	})
}

// StartCaddy checks a Caddyfile with caddy validate and runs it. config is given the address to listen on.
func StartCaddy(ctx context.Context, dir string, config func(listen string) ([]byte, error)) (*Proxy, error) {
	args := func(verb, file string) []string { return []string{verb, "--config", file, "--adapter", "caddyfile"} }
	return startProxy(ctx, dir, config, balancer{
		program: "caddy", remedy: "apt-get install caddy", file: "Caddyfile", end: syscall.SIGTERM,
		check: func(file string) []string { return args("validate", file) },
		run:   func(file string) []string { return args("run", file) },
		wrap: func(_ string, config []byte) ([]byte, error) {
			// The port for administration is the same for all, and its user another's.
			return bytes.Replace(config, []byte("\n{\n"), []byte("\n{\n\tadmin off\n"), 1), nil
		},
	})
}

func startProxy(ctx context.Context, dir string, config func(listen string) ([]byte, error), b balancer) (*Proxy, error) {
	program, err := findProxy(b.program, b.remedy)
	if err != nil {
		return nil, err
	}
	if dir, err = filepath.Abs(dir); err != nil {
		return nil, err
	}
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return nil, err
	}
	file := filepath.Join(dir, b.file)
	p := &Proxy{}
	p.server, err = startOnFreePort(ctx, func(port int) (*server, error) {
		p.addr = loopback(port)
		text, err := config(p.addr)
		if err == nil && b.wrap != nil {
			text, err = b.wrap(dir, text)
		}
		if err != nil {
			return nil, err
		}
		if err := disk.WriteFile(file, text, 0o600); err != nil {
			return nil, err
		}
		env := childEnv("HOME="+dir, "XDG_DATA_HOME="+dir, "XDG_CONFIG_HOME="+dir)
		check := exec.CommandContext(ctx, program, b.check(file)...)
		check.Env, check.Dir = env, dir
		if said, err := check.CombinedOutput(); err != nil {
			return nil, fmt.Errorf("%s does not take its configuration: %w:\n%s", b.program, err, said)
		}
		return &server{launch: launch{
			name: b.program, args: append([]string{program}, b.run(file)...), env: env, dir: dir,
			logFile: filepath.Join(dir, "server.log"), end: b.end, ready: p.dial,
		}}, nil
	})
	return p, err
}

func (p *Proxy) dial(ctx context.Context) error {
	var dialer net.Dialer
	conn, err := dialer.DialContext(ctx, "tcp", p.addr)
	if err != nil {
		return err
	}
	return conn.Close()
}
