package archive

import (
	"bufio"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"path"
	"path/filepath"
	"time"

	"lyceum/platform/blob"
	"lyceum/platform/db"
)

// keySet holds keys by 16 bytes of their hash: a million take some 40 MB.
type keySet map[[16]byte]struct{}

func hashKey(key string) [16]byte {
	h := sha256.Sum256([]byte(key))
	return [16]byte(h[:16])
}

func (s keySet) has(key string) bool {
	_, ok := s[hashKey(key)]
	return ok
}

// add tells whether the key was new.
func (s keySet) add(key string) bool {
	h := hashKey(key)
	_, ok := s[h]
	s[h] = struct{}{}
	return !ok
}

type lineWriter struct{ *bufio.Writer }

func newLineWriter(w io.Writer) lineWriter { return lineWriter{bufio.NewWriter(w)} }

func (l lineWriter) line(text string) error {
	_, err := l.WriteString(text + "\n")
	return err
}

// readBase notes what blobs the base has, itself or by its own base.
func (j *job) readBase(ctx context.Context) error {
	j.baseBlobs = keySet{}
	m, err := read(ctx, archiveOf(j.Since), visitor{list: func(entries []Entry) error {
		for _, e := range entries {
			j.baseBlobs.add(e.Key + " " + fmt.Sprint(e.Size))
		}
		return nil
	}})
	if err != nil {
		return err
	}
	if m.ServerName != j.ServerName {
		return fmt.Errorf("%s is a backup of %s, and this server is %s", j.Since, m.ServerName, j.ServerName)
	}
	if m.Blobs.Where == LeftOut {
		return fmt.Errorf("%s has no blobs: name a backup that has them", j.Since)
	}
	j.m.Blobs.Base, j.m.Blobs.BaseAt = m.ID, filepath.Base(j.Since)
	return nil
}

// archiveOf is the archive of a backup, which is a file or a directory.
func archiveOf(name string) string {
	if isDir(name) {
		return filepath.Join(name, dirArchive)
	}
	return name
}

// blobs copies what the store has now, which is more than the snapshot names.
func (j *job) blobs(ctx context.Context) error {
	total := int64(0)
	err := eachBlob(ctx, j.Blobs, func(i blob.Info) error {
		if !j.skipped(i.Key) {
			total += i.Size
		}
		return nil
	})
	if err != nil {
		return fmt.Errorf("list the blobs: %w", err)
	}
	j.Progress.step("blobs", "bytes", total)
	err = eachBlob(ctx, j.Blobs, func(i blob.Info) error {
		if j.skipped(i.Key) {
			return nil
		}
		err := j.blob(ctx, i)
		if errors.Is(err, blob.ErrNotFound) {
			return nil // deleted since it was listed; if a row names it, it counts as missing
		}
		return err
	})
	if err != nil {
		return err
	}
	if err := j.flushList(); err != nil {
		return err
	}
	j.m.Blobs.Sum = j.sum.text()
	if err := j.missing(ctx); err != nil {
		return err
	}
	if err := j.m.Blobs.Whole(); err != nil && !j.Incomplete {
		return fmt.Errorf("no backup was made, since it would be %w", err)
	}
	return nil
}

func (j *job) skipped(key string) bool {
	return j.SkipBlobs != "" && len(key) >= len(j.SkipBlobs) && key[:len(j.SkipBlobs)] == j.SkipBlobs
}

func (j *job) blob(ctx context.Context, i blob.Info) error {
	e := Entry{Key: i.Key, Size: i.Size}
	switch {
	case j.baseBlobs != nil && j.baseBlobs.has(i.Key+" "+fmt.Sprint(i.Size)) && contentHash(i.Key) != "":
		e.Base, e.SHA256 = true, contentHash(i.Key)
		j.Progress.add(i.Size)
	case j.blobDir != nil:
		if err := j.copyBeside(ctx, &e); err != nil {
			return err
		}
	default:
		r, err := openBlob(ctx, j.Blobs, i)
		if err != nil {
			return err
		}
		defer r.Close()
		if err := j.w.begin(blobPrefix+i.Key, i.Size); err != nil {
			return err
		}
		h := sha256.New()
		if _, err := io.Copy(io.MultiWriter(j.w.tar, h, counter{j.Progress}), r); err != nil {
			return fmt.Errorf("blob %s: %w", i.Key, noLonger(err))
		}
		e.SHA256 = hex.EncodeToString(h.Sum(nil))
		j.m.Blobs.Added++
		j.m.Blobs.AddedB += i.Size
	}
	delete(j.names, hashKey(i.Key))
	j.m.Blobs.Count++
	j.m.Blobs.Bytes += i.Size
	if want := contentHash(i.Key); want != "" && want != e.SHA256 && len(j.m.Blobs.Damaged) < mostNamed {
		j.m.Blobs.Damaged = append(j.m.Blobs.Damaged, i.Key)
	}
	return j.note(e)
}

// noLonger keeps a blob that vanished in the middle from passing for one that was never begun.
func noLonger(err error) error {
	if errors.Is(err, blob.ErrNotFound) {
		return errors.New("it was deleted while it was copied: run the backup again")
	}
	return err
}

// copyBeside copies a blob into the directory unless it is there.
func (j *job) copyBeside(ctx context.Context, e *Entry) error {
	if want := contentHash(e.Key); want != "" {
		if info, err := j.blobDir.Stat(ctx, e.Key); err == nil && info.Size == e.Size {
			e.SHA256 = want
			j.Progress.add(e.Size)
			return nil
		}
	}
	r, err := openBlob(ctx, j.Blobs, blob.Info{Key: e.Key, Size: e.Size})
	if err != nil {
		return err
	}
	defer r.Close()
	h := sha256.New()
	if _, err := j.blobDir.Put(ctx, e.Key, io.TeeReader(r, io.MultiWriter(h, counter{j.Progress})), e.Size); err != nil {
		return fmt.Errorf("blob %s: %w", e.Key, noLonger(err))
	}
	e.SHA256 = hex.EncodeToString(h.Sum(nil))
	j.m.Blobs.Added++
	j.m.Blobs.AddedB += e.Size
	return nil
}

// contentHash is the SHA-256 that a key ends in; "" when it ends in something else.
func contentHash(key string) string {
	name := path.Base(key)
	if len(name) != 2*sha256.Size {
		return ""
	}
	if b, err := hex.DecodeString(name); err != nil || hex.EncodeToString(b) != name {
		return ""
	}
	return name
}

// note adds a line to the list and writes the list out when it is long.
func (j *job) note(e Entry) error {
	line, err := json.Marshal(e)
	if err != nil {
		return err
	}
	j.sum.add(line)
	j.listLines = append(append(j.listLines, line...), '\n')
	j.lineCount++
	if j.lineCount >= listEvery {
		return j.flushList()
	}
	return nil
}

func (j *job) flushList() error {
	if j.lineCount == 0 {
		return nil
	}
	j.listCount++
	err := j.w.part(fmt.Sprintf("%s%08d", listPrefix, j.listCount), j.listLines)
	j.listLines, j.lineCount = j.listLines[:0], 0
	return err
}

// missing finds out the keys of the blobs that rows name and that were not there.
func (j *job) missing(ctx context.Context) error {
	if err := j.forgotten(ctx); err != nil {
		return err
	}
	j.m.Blobs.Lost = int64(len(j.names))
	if len(j.names) == 0 {
		return nil
	}
	if _, err := j.namesFile.Seek(0, io.SeekStart); err != nil {
		return err
	}
	lines := bufio.NewScanner(j.namesFile)
	for lines.Scan() && len(j.m.Blobs.Missing) < mostNamed {
		if j.names.has(lines.Text()) {
			j.m.Blobs.Missing = append(j.m.Blobs.Missing, lines.Text())
		}
	}
	return lines.Err()
}

// forgotten takes out the keys that no row names any more: those blobs were deleted while the backup ran, each after
// its row.
func (j *job) forgotten(ctx context.Context) error {
	if len(j.names) == 0 {
		return nil
	}
	still := keySet{}
	for _, query := range j.named {
		err := db.Each(func(row db.Row) error {
			var key string
			err := row.Scan(&key)
			if err == nil && j.names.has(key) {
				still.add(key)
			}
			return err
		})(j.DB.Query(ctx, query))
		if err != nil {
			return err
		}
	}
	j.m.Blobs.Gone = int64(len(j.names) - len(still))
	j.names = still
	return nil
}

type counter struct{ p *Progress }

func (c counter) Write(b []byte) (int, error) {
	c.p.add(int64(len(b)))
	return len(b), nil
}

// blobReader reads a blob of known size and begins again where the store broke off.
type blobReader struct {
	ctx   context.Context
	store blob.Store
	info  blob.Info
	body  io.ReadCloser
	at    int64
	tries int
}

func openBlob(ctx context.Context, s blob.Store, i blob.Info) (*blobReader, error) {
	b := &blobReader{ctx: ctx, store: s, info: i}
	for {
		err := b.open()
		if err == nil || errors.Is(err, blob.ErrNotFound) || !b.again() {
			return b, err
		}
	}
}

func (b *blobReader) open() (err error) {
	b.body, err = b.store.Get(b.ctx, b.info.Key, b.at, -1)
	return err
}

// again waits a little before another try, and tells whether there is one.
func (b *blobReader) again() bool {
	if b.tries++; b.tries >= blobTries {
		return false
	}
	select {
	case <-b.ctx.Done():
		return false
	case <-time.After(50 * time.Millisecond << b.tries):
		return true
	}
}

// Read implements io.Reader. It gives exactly as many bytes as the blob was listed with.
func (b *blobReader) Read(p []byte) (int, error) {
	if err := b.ctx.Err(); err != nil {
		return 0, err
	}
	if b.at == b.info.Size {
		return 0, io.EOF
	}
	for {
		if left := b.info.Size - b.at; int64(len(p)) > left {
			p = p[:left]
		}
		n, err := b.body.Read(p)
		b.at += int64(n)
		if n > 0 {
			b.tries = 0
			return n, nil
		}
		if err == nil {
			continue
		}
		if err == io.EOF {
			err = fmt.Errorf("%w: expected %d bytes, found %d", blob.ErrSize, b.info.Size, b.at)
		}
		for {
			if errors.Is(err, blob.ErrNotFound) || !b.again() {
				return 0, err
			}
			_ = b.body.Close() // it broke off
			if err = b.open(); err == nil {
				break
			}
			b.body = io.NopCloser(nothing{})
		}
	}
}

type nothing struct{}

func (nothing) Read([]byte) (int, error) { return 0, io.EOF }

// Close implements io.Closer.
func (b *blobReader) Close() error { return b.body.Close() }

// beside opens the blobs next to the archive of a backup directory.
func beside(name string) (blob.Store, error) {
	dir := filepath.Join(name, dirBlobs)
	if _, err := os.Stat(dir); err != nil {
		return nil, fmt.Errorf("%w: its blobs are missing: %w", ErrDamaged, err)
	}
	return blob.OpenDirectory(dir)
}
