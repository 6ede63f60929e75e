package blob

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"hash"
	"io"
	"os"
	"strings"
	"syscall"
	"time"
)

var (
	// ErrNotFound is returned for a key without a blob.
	ErrNotFound = errors.New("blob not found")
	// ErrUnsupported is returned for an operation that this engine does not have.
	ErrUnsupported = errors.New("not supported by this blob store")
	// ErrKey is returned for a key that is not allowed.
	ErrKey = errors.New("bad blob key")
	// ErrSize is returned when a reader has more or fewer bytes than announced.
	ErrSize = errors.New("the blob has another size than announced")
	// ErrTooLarge is returned by PutContent for more bytes than its limit.
	ErrTooLarge = errors.New("the blob is larger than allowed")
	// ErrFull is returned when the disk for blobs, or for uploads to S3, is full.
	ErrFull = errors.New("no space is left for blobs")
)

// Store keeps blobs. A key is 1 to 512 bytes of letters, digits and !_.*'()=+,:@- in parts separated
// by "/"; no part is empty, "." or "..", or longer than 200 bytes.
type Store interface {
	// Put stores the bytes of r and returns their number. size is announced, or -1 when unknown. Readers see all of it or nothing; a blob of
	// that key is replaced.
	Put(ctx context.Context, key string, r io.Reader, size int64) (int64, error)

	// Get reads length bytes from offset, or to the end when length is -1. Past the end there is nothing
	// to read and no error. The caller closes the reader. A missing blob is ErrNotFound.
	Get(ctx context.Context, key string, offset, length int64) (io.ReadCloser, error)

	// Stat describes a blob, or returns ErrNotFound.
	Stat(ctx context.Context, key string) (Info, error)

	// Delete removes a blob. A missing one is no error.
	Delete(ctx context.Context, key string) error

	// List returns up to limit blobs whose keys begin with prefix and come after the key after, in the
	// order of the bytes of their keys. The last key is the next after.
	List(ctx context.Context, prefix, after string, limit int) ([]Info, error)

	// Presign returns a URL that reads the blob without credentials for ttl, or ErrUnsupported.
	// The blob need not exist.
	Presign(ctx context.Context, key string, ttl time.Duration) (string, error)
}

// Info describes a blob.
type Info struct {
	Key      string
	Size     int64 // bytes
	Modified time.Time
}

const (
	maxKey  = 512
	maxPart = 200
)

// checkKey accepts only keys that every S3 store and file system can hold.
func checkKey(key string) error {
	if key == "" || len(key) > maxKey {
		return fmt.Errorf("%w: expected 1 to %d bytes, found %d", ErrKey, maxKey, len(key))
	}
	for part := range strings.SplitSeq(key, "/") {
		if part == "" || part == "." || part == ".." || len(part) > maxPart {
			return fmt.Errorf("%w %q: expected parts of 1 to %d bytes between slashes, no part being . or .. itself", ErrKey, key, maxPart)
		}
		for _, c := range []byte(part) {
			if !keyByte(c) {
				return fmt.Errorf("%w %q: expected letters, digits and !_.*'()=+,:@-, found %q", ErrKey, key, c)
			}
		}
	}
	return nil
}

func keyByte(c byte) bool {
	return c >= 'a' && c <= 'z' || c >= 'A' && c <= 'Z' || c >= '0' && c <= '9' || strings.IndexByte("!_.*'()=+,:@-", c) >= 0
}

func checkRange(offset, length int64) error {
	if offset < 0 || length < -1 {
		return fmt.Errorf("blob range: expected an offset from 0 and a length from -1, found %d and %d", offset, length)
	}
	return nil
}

// exactly reads from r and fails unless it has size bytes; size -1 accepts any number. It fails before it returns the last byte, so that no
// store takes the blob for complete.
type exactly struct {
	r    io.Reader
	size int64
	n    int64
}

func (e *exactly) Read(p []byte) (int, error) {
	if e.size < 0 {
		n, err := e.r.Read(p)
		e.n += int64(n)
		return n, err
	}
	left := e.size - e.n
	if left <= 0 {
		return 0, e.end()
	}
	if int64(len(p)) > left {
		p = p[:left]
	}
	n, err := e.r.Read(p)
	e.n += int64(n)
	if e.n == e.size && n > 0 && (err == nil || err == io.EOF) {
		if end := e.end(); end != io.EOF {
			return 0, end
		}
		return n, nil
	}
	if err == io.EOF {
		return n, fmt.Errorf("%w: expected %d bytes, found %d", ErrSize, e.size, e.n)
	}
	return n, err
}

// end checks that the reader is at its end: io.EOF.
func (e *exactly) end() error {
	var one [1]byte
	for {
		n, err := e.r.Read(one[:])
		if n > 0 {
			return fmt.Errorf("%w: expected %d bytes, found more", ErrSize, e.size)
		}
		if err != nil {
			return err
		}
	}
}

// UntilDone reads from r until ctx ends: it stops a copy whose caller has gone.
func UntilDone(ctx context.Context, r io.Reader) io.Reader { return contextReader{ctx, r} }

type contextReader struct {
	ctx context.Context
	r   io.Reader
}

func (c contextReader) Read(p []byte) (int, error) {
	if err := c.ctx.Err(); err != nil {
		return 0, err
	}
	return c.r.Read(p)
}

// contentReader hashes what it passes through and stops at a limit.
type contentReader struct {
	r     io.Reader
	hash  hash.Hash
	n     int64
	limit int64 // -1: none
}

func newContentReader(r io.Reader, limit int64) *contentReader {
	return &contentReader{r: r, hash: sha256.New(), limit: limit}
}

func (c *contentReader) Read(p []byte) (int, error) {
	n, err := c.r.Read(p)
	c.n += int64(n)
	if c.limit >= 0 && c.n > c.limit {
		return 0, fmt.Errorf("%w: the limit is %d bytes", ErrTooLarge, c.limit)
	}
	c.hash.Write(p[:n])
	return n, err
}

func (c *contentReader) sum() string { return hex.EncodeToString(c.hash.Sum(nil)) }

// contentStore is a Store that can write a blob before its key is known.
type contentStore interface {
	putContent(ctx context.Context, prefix string, r *contentReader) (hash string, size int64, err error)
}

// PutContent stores the bytes of r under prefix and its SHA-256 in hexadecimal, and returns that hash and the size in bytes. The same bytes
// are stored once. More than limit bytes is ErrTooLarge; -1 is no limit. A store that needs the key first is served from a temporary file
// in Config.Scratch.
func PutContent(ctx context.Context, s Store, prefix string, r io.Reader, limit int64) (hash string, size int64, err error) {
	content := newContentReader(UntilDone(ctx, r), limit)
	if cs, ok := s.(contentStore); ok {
		return cs.putContent(ctx, prefix, content)
	}
	dir := ""
	if sc, ok := s.(scratched); ok {
		dir = sc.scratchDir()
	}
	temp, err := os.CreateTemp(dir, "lyceum-blob-")
	if err != nil {
		return "", 0, full(err)
	}
	_ = os.Remove(temp.Name()) // a process that is killed leaves nothing behind, where a file may be removed while it is open
	defer os.Remove(temp.Name())
	defer temp.Close()
	if size, err = io.Copy(temp, content); err != nil {
		return "", 0, full(err)
	}
	hash = content.sum()
	if info, err := s.Stat(ctx, prefix+hash); err == nil && info.Size == size {
		return hash, size, nil
	} else if err != nil && !errors.Is(err, ErrNotFound) {
		return "", 0, err
	}
	if _, err = temp.Seek(0, io.SeekStart); err != nil {
		return "", 0, err
	}
	if _, err = s.Put(ctx, prefix+hash, temp, size); err != nil {
		return "", 0, err
	}
	return hash, size, nil
}

// scratched is a Store that has a directory for temporary files.
type scratched interface{ scratchDir() string }

// full adds ErrFull to the error of a full disk.
func full(err error) error {
	if errors.Is(err, syscall.ENOSPC) || errors.Is(err, syscall.EDQUOT) {
		return fmt.Errorf("%w: %w", ErrFull, err)
	}
	return err
}
