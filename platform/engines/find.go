package engines

import (
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
)

// ErrNotInstalled is wrapped by the error of a Start function whose program is missing.
// The message names what to install.
var ErrNotInstalled = errors.New("program is not installed")

const (
	postgresRemedy = "apt-get install postgresql"
	redisRemedy    = "apt-get install redis-server"
	s3Remedy       = "go install github.com/versity/versitygw/cmd/versitygw@v1.8.0"
)

func missing(program, remedy string) error {
	return fmt.Errorf("%s: %w: looked in PATH and in the usual places: install it with %q", program, ErrNotInstalled, remedy)
}

// CheckInstalled returns an error when a program that is needed is missing.
func CheckInstalled(postgres, redis bool) (err error) {
	if postgres {
		_, err = findPostgres()
	}
	if redis {
		_, missing := findRedis()
		err = errors.Join(err, missing)
	}
	return err
}

// findPostgres returns the directory that holds both initdb and postgres of one version.
func findPostgres() (string, error) {
	if path, err := exec.LookPath("postgres"); err == nil {
		// Debian keeps the programs of one version together; a link from PATH leads there.
		if real, err := filepath.EvalSymlinks(path); err == nil {
			path = real
		}
		if dir := filepath.Dir(path); executable(filepath.Join(dir, "initdb")) {
			return dir, nil
		}
	}
	dirs, _ := filepath.Glob("/usr/lib/postgresql/*/bin")
	best, bestVersion := "", -1
	for _, dir := range dirs {
		version, err := strconv.Atoi(filepath.Base(filepath.Dir(dir)))
		if err == nil && version > bestVersion && executable(filepath.Join(dir, "postgres")) && executable(filepath.Join(dir, "initdb")) {
			best, bestVersion = dir, version
		}
	}
	if best == "" {
		return "", missing("postgres", postgresRemedy)
	}
	return best, nil
}

func findRedis() (string, error) {
	path, err := exec.LookPath("redis-server")
	if err != nil {
		return "", missing("redis-server", redisRemedy)
	}
	return path, nil
}

// findS3 looks in PATH, where "go install" puts programs, and in .tools/bin of this module.
func findS3() (string, error) {
	const program = "versitygw"
	if path, err := exec.LookPath(program); err == nil {
		return path, nil
	}
	var dirs []string
	if dir := os.Getenv("GOBIN"); dir != "" {
		dirs = append(dirs, dir)
	}
	for _, dir := range filepath.SplitList(os.Getenv("GOPATH")) {
		dirs = append(dirs, filepath.Join(dir, "bin"))
	}
	if home, err := os.UserHomeDir(); err == nil {
		dirs = append(dirs, filepath.Join(home, "go", "bin"))
	}
	if dir, err := os.Getwd(); err == nil {
		for {
			dirs = append(dirs, filepath.Join(dir, ".tools", "bin"))
			parent := filepath.Dir(dir)
			if exists(filepath.Join(dir, "go.mod")) || parent == dir {
				break
			}
			dir = parent
		}
	}
	for _, dir := range dirs {
		if path := filepath.Join(dir, program); executable(path) {
			return path, nil
		}
	}
	return "", missing(program, s3Remedy)
}

func executable(path string) bool {
	info, err := os.Stat(path)
	return err == nil && !info.IsDir() && info.Mode()&0o111 != 0
}

func exists(path string) bool {
	_, err := os.Stat(path)
	return err == nil
}
