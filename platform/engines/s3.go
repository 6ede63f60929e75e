package engines

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"syscall"

	"github.com/minio/minio-go/v7"
	"github.com/minio/minio-go/v7/pkg/credentials"

	"lyceum/platform/disk"
)

// S3 is a private S3 server over a directory on a loopback port.
type S3 struct {
	*server
	port                 int
	accessKey, secretKey string
}

// StartS3 starts a server that keeps its objects below dir and returns when it answers.
// The file system must have extended attributes.
func StartS3(ctx context.Context, dir string) (*S3, error) {
	program, err := findS3()
	if err != nil {
		return nil, err
	}
	if dir, err = filepath.Abs(dir); err != nil {
		return nil, err
	}
	objects := filepath.Join(dir, "objects")
	if err := os.MkdirAll(objects, 0o700); err != nil {
		return nil, err
	}
	s := &S3{}
	if s.accessKey, s.secretKey, err = s3Keys(filepath.Join(dir, "keys")); err != nil {
		return nil, err
	}
	s.server, err = startOnFreePort(ctx, func(port int) (*server, error) {
		s.port = port
		return &server{launch: launch{
			name: "versitygw",
			args: []string{program, "--port", loopback(port), "posix", objects},
			env:  childEnv("ROOT_ACCESS_KEY="+s.accessKey, "ROOT_SECRET_KEY="+s.secretKey, "HOME="+dir),
			dir:  dir, logFile: filepath.Join(dir, "server.log"), end: syscall.SIGTERM, ready: s.ping,
		}}, nil
	})
	if err != nil {
		return nil, err
	}
	return s, nil
}

// s3Keys keeps the keys beside the data: objects carry their owner, so a new key could not read them.
func s3Keys(file string) (access, secret string, err error) {
	text, err := os.ReadFile(file)
	if os.IsNotExist(err) {
		access, secret = "lyceum", randomPassword()
		return access, secret, disk.WriteFile(file, []byte(access+"\n"+secret+"\n"), 0o600)
	}
	if err != nil {
		return "", "", err
	}
	words := strings.Fields(string(text))
	if len(words) != 2 {
		return "", "", fmt.Errorf("%s: expected an access key and a secret key, found %d words: delete the file to make new keys", file,
			len(words))
	}
	return words[0], words[1], nil
}

func (s *S3) client() (*minio.Client, error) {
	return minio.New(loopback(s.port), &minio.Options{
		Creds: credentials.NewStaticV4(s.accessKey, s.secretKey, ""), Region: s.Region(), MaxRetries: 1,
	})
}

func (s *S3) ping(ctx context.Context) error {
	client, err := s.client()
	if err != nil {
		return err
	}
	_, err = client.ListBuckets(ctx)
	return err
}

// MakeBucket creates an empty bucket.
func (s *S3) MakeBucket(ctx context.Context, name string) error {
	client, err := s.client()
	if err != nil {
		return err
	}
	if err := client.MakeBucket(ctx, name, minio.MakeBucketOptions{Region: s.Region()}); err != nil {
		return fmt.Errorf("make bucket %s: %w", name, err)
	}
	return nil
}

// Endpoint is http://host:port.
func (s *S3) Endpoint() string { return "http://" + loopback(s.port) }

// Region is the one the server signs for.
func (s *S3) Region() string { return "us-east-1" }

// AccessKey is the public half of the root credentials.
func (s *S3) AccessKey() string { return s.accessKey }

// SecretKey is the secret half of the root credentials.
func (s *S3) SecretKey() string { return s.secretKey }
