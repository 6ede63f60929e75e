package blob

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"strings"
	"time"

	"github.com/minio/minio-go/v7"
	"github.com/minio/minio-go/v7/pkg/credentials"

	"lyceum/platform/conf"
)

// partSize bounds the memory of one upload whose size is unknown. S3 takes 10,000 parts, so 50 GB in all.
const partSize = 5 << 20

// S3Config says where an S3-compatible store is.
type S3Config struct {
	Endpoint   string      `yaml:"endpoint" own:"true" help:"URL of the store, such as https://s3.eu-west-1.amazonaws.com or http://minio:9000"`
	Region     string      `yaml:"region" own:"true" default:"us-east-1" help:"region that requests are signed for"`
	Bucket     string      `yaml:"bucket" help:"bucket for all blobs"`
	Prefix     string      `yaml:"prefix" help:"beginning of all keys, such as lyceum/, when the bucket is shared"`
	AccessKey  string      `yaml:"access_key" own:"true" help:"access key; empty: from AWS_ACCESS_KEY_ID or the machine's role"`
	SecretKey  conf.Secret `yaml:"secret_key" own:"true" help:"secret of the access key"`
	PathStyle  bool        `yaml:"path_style" own:"true" default:"true" help:"put the bucket into the path of URLs, not into the host name"`
	MakeBucket bool        `yaml:"make_bucket" own:"true" help:"make the bucket when it is missing"`
	Retries    int         `yaml:"retries" own:"true" default:"5" min:"1" max:"20" help:"tries of a request that can be repeated"`
}

// Validate names the key that is wrong and what to write instead.
func (c *S3Config) Validate() error {
	if c.Endpoint == "" && c.Bucket == "" {
		return nil // S3 is not used
	}
	var errs []error
	if u, err := url.Parse(c.Endpoint); err != nil || u.Host == "" || u.Scheme != "http" && u.Scheme != "https" ||
		strings.Trim(u.Path, "/") != "" {
		errs = append(errs, fmt.Errorf("endpoint: expected http://host:port or https://host, found %q: remove any path", conf.Redact(c.Endpoint)))
	}
	if u, err := url.Parse(c.Endpoint); err == nil && u.User != nil {
		errs = append(errs, errors.New("endpoint: expected no user and no password in it, found some: set access_key and secret_key"))
	}
	if c.Bucket == "" {
		errs = append(errs, errors.New("bucket: expected a name, found nothing: name the bucket for the blobs"))
	}
	if (c.AccessKey == "") != (c.SecretKey == "") {
		errs = append(errs, errors.New("secret_key: expected it together with access_key: set both or none"))
	}
	return errors.Join(errs...)
}

// S3 keeps blobs in a bucket.
type S3 struct {
	client  *minio.Client
	core    minio.Core
	bucket  string
	prefix  string
	scratch string // directory for files whose key is not known yet
}

var _ Store = (*S3)(nil)

// OpenS3 checks that the bucket is there and makes it when Config.MakeBucket allows.
func OpenS3(ctx context.Context, c S3Config) (*S3, error) {
	if c.Endpoint == "" && c.Bucket == "" {
		return nil, errors.New("blob: s3: endpoint and bucket: expected both, found neither")
	}
	if err := c.Validate(); err != nil {
		return nil, fmt.Errorf("blob: s3: %w", err)
	}
	u, err := url.Parse(c.Endpoint)
	if err != nil {
		return nil, err
	}
	options := &minio.Options{
		Secure: u.Scheme == "https", Region: c.Region, BucketLookup: minio.BucketLookupDNS, MaxRetries: c.Retries,
		Creds: credentials.NewStaticV4(c.AccessKey, c.SecretKey.Reveal(), ""),
	}
	if c.AccessKey == "" {
		options.Creds = credentials.NewChainCredentials([]credentials.Provider{&credentials.EnvAWS{}, &credentials.IAM{}})
	}
	if c.PathStyle {
		options.BucketLookup = minio.BucketLookupPath
	}
	client, err := minio.New(u.Host, options)
	if err != nil {
		return nil, fmt.Errorf("blob: s3: %w", err)
	}
	s := &S3{client: client, core: minio.Core{Client: client}, bucket: c.Bucket, prefix: c.Prefix}
	there, err := client.BucketExists(ctx, c.Bucket)
	if err != nil {
		return nil, fmt.Errorf("blob: s3: look for bucket %s at %s: %w", c.Bucket, c.Endpoint, err)
	}
	if there {
		return s, nil
	}
	if !c.MakeBucket {
		return nil, fmt.Errorf("blob: s3: there is no bucket %s at %s: make it, or set make_bucket: true", c.Bucket, c.Endpoint)
	}
	if err := client.MakeBucket(ctx, c.Bucket, minio.MakeBucketOptions{Region: c.Region}); err != nil {
		// Several processes of a fleet start at once.
		if there, again := client.BucketExists(ctx, c.Bucket); again != nil || !there {
			return nil, fmt.Errorf("blob: s3: make bucket %s: %w", c.Bucket, err)
		}
	}
	return s, nil
}

func (s *S3) scratchDir() string { return s.scratch }

// Put implements Store.
func (s *S3) Put(ctx context.Context, key string, r io.Reader, size int64) (int64, error) {
	if err := checkKey(key); err != nil {
		return 0, err
	}
	announced := &exactly{r: r, size: size}
	source := io.Reader(announced)
	if size == 0 {
		// Nobody reads a body of no bytes, so what the reader has too much would not be noticed.
		if err := announced.end(); err != io.EOF {
			return 0, err
		}
		source = bytes.NewReader(nil)
	} else if seeker, ok := r.(io.ReadSeeker); ok && size >= 0 {
		if err := checkSize(seeker, size); err != nil {
			return 0, err
		}
		source = r // what can be read again can be sent again
	}
	info, err := s.client.PutObject(ctx, s.bucket, s.prefix+key, source, size, minio.PutObjectOptions{
		PartSize: partSize, NumThreads: 1, ContentType: "application/octet-stream",
	})
	if err != nil {
		return 0, fmt.Errorf("put blob %s: %w", key, err)
	}
	return info.Size, nil
}

func checkSize(r io.ReadSeeker, size int64) error {
	at, err := r.Seek(0, io.SeekCurrent)
	if err != nil {
		return err
	}
	end, err := r.Seek(0, io.SeekEnd)
	if err != nil {
		return err
	}
	if end-at != size {
		return fmt.Errorf("%w: expected %d bytes, found %d", ErrSize, size, end-at)
	}
	_, err = r.Seek(at, io.SeekStart)
	return err
}

// Get implements Store.
func (s *S3) Get(ctx context.Context, key string, offset, length int64) (io.ReadCloser, error) {
	if err := errors.Join(checkKey(key), checkRange(offset, length)); err != nil {
		return nil, err
	}
	nothing := io.NopCloser(bytes.NewReader(nil))
	if length == 0 {
		if _, err := s.Stat(ctx, key); err != nil {
			return nil, err
		}
		return nothing, nil
	}
	var options minio.GetObjectOptions
	if offset > 0 || length > 0 {
		end := int64(0) // with an offset: to the end
		if length > 0 {
			end = offset + length - 1
		}
		if err := options.SetRange(offset, end); err != nil {
			return nil, err
		}
	}
	body, _, _, err := s.core.GetObject(ctx, s.bucket, s.prefix+key, options)
	if err != nil {
		if minio.ToErrorResponse(err).StatusCode == http.StatusRequestedRangeNotSatisfiable {
			return nothing, nil
		}
		return nil, s.wrap(err, "get", key)
	}
	return body, nil
}

func (s *S3) wrap(err error, verb, key string) error {
	answer := minio.ToErrorResponse(err)
	if answer.Code == minio.NoSuchKey || answer.StatusCode == http.StatusNotFound && answer.Code != minio.NoSuchBucket {
		return fmt.Errorf("%w: %s", ErrNotFound, key)
	}
	return fmt.Errorf("%s blob %s: %w", verb, key, err)
}

// Stat implements Store.
func (s *S3) Stat(ctx context.Context, key string) (Info, error) {
	if err := checkKey(key); err != nil {
		return Info{}, err
	}
	info, err := s.client.StatObject(ctx, s.bucket, s.prefix+key, minio.StatObjectOptions{})
	if err != nil {
		return Info{}, s.wrap(err, "stat", key)
	}
	return Info{Key: key, Size: info.Size, Modified: info.LastModified}, nil
}

// Delete implements Store.
func (s *S3) Delete(ctx context.Context, key string) error {
	if err := checkKey(key); err != nil {
		return err
	}
	err := s.client.RemoveObject(ctx, s.bucket, s.prefix+key, minio.RemoveObjectOptions{})
	if err == nil {
		return nil
	}
	if err = s.wrap(err, "delete", key); errors.Is(err, ErrNotFound) {
		return nil
	}
	return err
}

// List implements Store.
func (s *S3) List(ctx context.Context, prefix, after string, limit int) ([]Info, error) {
	if limit <= 0 {
		return nil, nil
	}
	options := minio.ListObjectsOptions{Prefix: s.prefix + prefix, Recursive: true, MaxKeys: min(limit, 1000)}
	if after != "" {
		options.StartAfter = s.prefix + after
	}
	ctx, cancel := context.WithCancel(ctx)
	defer cancel() // ends the listing behind the iterator
	var found []Info
	for object := range s.client.ListObjectsIter(ctx, s.bucket, options) {
		if object.Err != nil {
			return nil, fmt.Errorf("list blobs %s: %w", prefix, object.Err)
		}
		found = append(found, Info{
			Key: strings.TrimPrefix(object.Key, s.prefix), Size: object.Size, Modified: object.LastModified,
		})
		if len(found) == limit {
			break
		}
	}
	return found, ctx.Err()
}

// Presign implements Store. ttl is at most seven days.
func (s *S3) Presign(ctx context.Context, key string, ttl time.Duration) (string, error) {
	if err := checkKey(key); err != nil {
		return "", err
	}
	u, err := s.client.PresignedGetObject(ctx, s.bucket, s.prefix+key, ttl, nil)
	if err != nil {
		return "", fmt.Errorf("presign blob %s: %w", key, err)
	}
	return u.String(), nil
}
