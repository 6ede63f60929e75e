package engines

import (
	"context"
	"errors"
	"fmt"
	"net/url"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"

	"github.com/jackc/pgx/v5"

	"lyceum/platform/disk"
)

// Postgres is a private PostgreSQL server on a loopback port. Its superuser is "postgres" with a random password.
type Postgres struct {
	*server
	port     int
	password string
}

// StartPostgres starts a server with its data below dir and returns when it answers.
// A directory used before is opened again with its data. Settings are "name=value" of postgresql.conf.
// fsync stays on unless a setting says otherwise. As root, the server runs as user postgres or nobody,
// who must be able to pass the directories above dir.
func StartPostgres(ctx context.Context, dir string, settings ...string) (*Postgres, error) {
	bin, err := findPostgres()
	if err != nil {
		return nil, err
	}
	as, err := unprivileged()
	if err != nil {
		return nil, err
	}
	if dir, err = filepath.Abs(dir); err != nil {
		return nil, err
	}
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return nil, err
	}
	if as != nil {
		if err := reachable(dir, as); err != nil {
			return nil, err
		}
		if err := os.Chown(dir, int(as.uid), int(as.gid)); err != nil {
			return nil, err
		}
	}
	password, err := initPostgres(ctx, bin, dir, as)
	if err != nil {
		return nil, err
	}
	pg := &Postgres{password: password}
	pg.server, err = startOnFreePort(ctx, func(port int) (*server, error) {
		pg.port = port
		args := []string{
			filepath.Join(bin, "postgres"), "-D", filepath.Join(dir, "data"),
			"-c", "listen_addresses=127.0.0.1", "-c", "port=" + strconv.Itoa(port),
			// Sockets have a path limit of about 100 bytes, which a deep data directory breaks; loopback has none.
			"-c", "unix_socket_directories=",
			"-c", "max_connections=200", "-c", "shared_buffers=64MB", "-c", "log_checkpoints=off",
		}
		for _, s := range settings {
			args = append(args, "-c", s)
		}
		return &server{launch: launch{
			name: "postgres", args: args, env: childEnv(), dir: dir, as: as,
			logFile: filepath.Join(dir, "server.log"),
			end:     syscall.SIGINT, // fast shutdown: ends sessions, writes a checkpoint
			ready:   pg.ping,
		}}, nil
	})
	if err != nil {
		return nil, err
	}
	return pg, nil
}

// initPostgres makes the data directory unless it is there, and returns the superuser's password.
func initPostgres(ctx context.Context, bin, dir string, as *account) (string, error) {
	data, secret := filepath.Join(dir, "data"), filepath.Join(dir, "password")
	if exists(filepath.Join(data, "PG_VERSION")) {
		password, err := os.ReadFile(secret)
		if err != nil {
			return "", fmt.Errorf("the password of the private PostgreSQL in %s: %w", dir, err)
		}
		return strings.TrimSpace(string(password)), nil
	}
	password := randomPassword()
	if err := disk.WriteFile(secret, []byte(password+"\n"), 0o600); err != nil {
		return "", err
	}
	if as != nil {
		if err := os.Chown(secret, int(as.uid), int(as.gid)); err != nil {
			return "", err
		}
	}
	// initdb leaves a half-made directory when it is interrupted, so it works under another name.
	making := data + ".making"
	if err := os.RemoveAll(making); err != nil {
		return "", err
	}
	// The locale C sorts by bytes, so that an index never depends on the machine's language data.
	cmd := exec.CommandContext(ctx, filepath.Join(bin, "initdb"), "-D", making, "-U", "postgres",
		"--pwfile", secret, "--auth", "scram-sha-256", "-E", "UTF8", "--locale", "C", "--no-sync", "--no-instructions")
	cmd.Env, cmd.Dir, cmd.SysProcAttr = childEnv(), dir, childAttr(as, syscall.SIGKILL)
	if out, err := cmd.CombinedOutput(); err != nil {
		return "", fmt.Errorf("initdb in %s: %w:\n%s", dir, err, out)
	}
	return password, os.Rename(making, data)
}

func (p *Postgres) ping(ctx context.Context) error {
	conn, err := pgx.Connect(ctx, p.URL())
	if err != nil {
		return err
	}
	return conn.Close(ctx)
}

// Addr is host:port.
func (p *Postgres) Addr() string { return loopback(p.port) }

// URL connects to the database "postgres" as the superuser.
func (p *Postgres) URL() string { return p.urlOf("postgres") }

func (p *Postgres) urlOf(database string) string {
	u := url.URL{
		Scheme: "postgres", User: url.UserPassword("postgres", p.password),
		Host: loopback(p.port), Path: "/" + database, RawQuery: "sslmode=disable",
	}
	return u.String()
}

// NewDatabase creates an empty database and returns its URL. The name must be new.
func (p *Postgres) NewDatabase(ctx context.Context, name string) (string, error) {
	err := p.admin(ctx, "CREATE DATABASE "+pgx.Identifier{name}.Sanitize()+" TEMPLATE template0")
	if err != nil {
		return "", fmt.Errorf("create database %s: %w", name, err)
	}
	return p.urlOf(name), nil
}

// DropDatabase removes a database and ends the sessions in it. A missing one is no error.
func (p *Postgres) DropDatabase(ctx context.Context, name string) error {
	if err := p.admin(ctx, "DROP DATABASE IF EXISTS "+pgx.Identifier{name}.Sanitize()+" WITH (FORCE)"); err != nil {
		return fmt.Errorf("drop database %s: %w", name, err)
	}
	return nil
}

func (p *Postgres) admin(ctx context.Context, statement string) error {
	conn, err := pgx.Connect(ctx, p.URL())
	if err != nil {
		return err
	}
	_, err = conn.Exec(ctx, statement)
	return errors.Join(err, conn.Close(ctx))
}
