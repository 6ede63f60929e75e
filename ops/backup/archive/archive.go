package archive

import (
	"archive/tar"
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path"
	"path/filepath"
	"strings"
	"time"

	"github.com/klauspost/compress/zstd"

	"lyceum/platform/blob"
	"lyceum/platform/db"
)

// Names of the parts of an archive.
const (
	headerName   = "lyceum-backup.json"
	tablesName   = "tables.json" // comes before the rows, which can not be read without it
	manifestName = "manifest.json"
	configName   = "config/lyceum.yaml"
	secretName   = "config/secret"
	rowsPrefix   = "rows/"
	blobPrefix   = "blobs/"
	listPrefix   = "blob-list/"
)

// Most bytes of the parts that are read whole.
const (
	maxSmall    = 4 << 20  // header, configuration, secret
	maxManifest = 32 << 20 // manifest, one list
	maxPending  = 100_000  // blobs between two lists
)

// ErrDamaged says that an archive is not what was written.
var ErrDamaged = errors.New("the backup is damaged")

// header is the first part: enough to refuse a file that is something else.
type header struct {
	Format int    `json:"format"`
	ID     string `json:"id"`
}

// writer writes an archive into a temporary file, which finish renames. It is the io.Writer of its own compressor, to count bytes.
type writer struct {
	file  *os.File
	zip   *zstd.Encoder
	tar   *tar.Writer
	name  string
	now   time.Time
	bytes int64 // written so far, compressed
}

func newWriter(name string, now time.Time) (*writer, error) {
	dir := filepath.Dir(name)
	f, err := os.CreateTemp(dir, "."+filepath.Base(name)+".unfinished-")
	if err != nil {
		return nil, err
	}
	w := &writer{file: f, name: name, now: now}
	if w.zip, err = zstd.NewWriter(w, zstd.WithEncoderLevel(zstd.SpeedFastest)); err != nil {
		return nil, errors.Join(err, w.drop())
	}
	w.tar = tar.NewWriter(w.zip)
	return w, nil
}

// Write counts what reaches the file.
func (w *writer) Write(p []byte) (int, error) {
	n, err := w.file.Write(p)
	w.bytes += int64(n)
	return n, err
}

func (w *writer) begin(name string, size int64) error {
	return w.tar.WriteHeader(&tar.Header{Name: name, Size: size, Mode: 0o600, ModTime: w.now, Typeflag: tar.TypeReg})
}

func (w *writer) part(name string, data []byte) error {
	if err := w.begin(name, int64(len(data))); err != nil {
		return err
	}
	_, err := w.tar.Write(data)
	return err
}

func (w *writer) json(name string, v any) error {
	text, err := json.MarshalIndent(v, "", " ")
	if err != nil {
		return err
	}
	return w.part(name, text)
}

// finish makes the archive durable under its name.
func (w *writer) finish() error {
	err := errors.Join(w.tar.Close(), w.zip.Close())
	if err == nil {
		err = w.file.Sync()
	}
	if err == nil {
		err = os.Rename(w.file.Name(), w.name)
	}
	if err != nil {
		return errors.Join(err, w.drop())
	}
	return errors.Join(w.file.Close(), syncDir(filepath.Dir(w.name)))
}

func (w *writer) drop() error {
	return errors.Join(w.file.Close(), os.Remove(w.file.Name()))
}

func syncDir(name string) error {
	d, err := os.Open(name)
	if err != nil {
		return err
	}
	return errors.Join(d.Sync(), d.Close())
}

// visitor has the functions that read calls with the parts of an archive, in their order; parts whose function is nil are skipped. An
// error ends the reading; errEnough does so without being one.
type visitor struct {
	header func(h header) error
	config func(name string, text []byte) error
	tables func(tables []db.Table) error
	rows   func(table string, r *rowReader) error
	blob   func(key string, size int64, r io.Reader) error
	list   func(entries []Entry) error

	progress *Progress // counts bytes of the file; nil: nothing is counted
}

var errEnough = errors.New("enough was read")

// read passes once over an archive. The manifest is nil after errEnough.
func read(ctx context.Context, name string, v visitor) (*Manifest, error) {
	f, err := os.Open(name)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	var in io.Reader = blob.UntilDone(ctx, f)
	if v.progress != nil {
		in = io.TeeReader(in, counter{v.progress})
	}
	z, err := zstd.NewReader(in, zstd.WithDecoderMaxWindow(64<<20))
	if err != nil {
		return nil, err
	}
	defer z.Close()
	content := &unzipped{z: z}
	m, err := readParts(tar.NewReader(content), v)
	switch {
	case errors.Is(err, errEnough):
		return nil, nil
	case err == nil:
		// What follows the end of the tar stream is nothing, and the checksum of the last frame is right.
		if _, err = io.Copy(io.Discard, content); err == nil {
			return m, nil
		}
	case ctx.Err() != nil:
		return nil, ctx.Err()
	}
	if errors.Is(err, tar.ErrHeader) || errors.Is(err, io.ErrUnexpectedEOF) {
		err = damaged(err)
	}
	return nil, fmt.Errorf("%s: %w", name, err)
}

// unzipped reads what the archive holds. What the decoder does not understand is damage; most of its errors have no name.
type unzipped struct{ z *zstd.Decoder }

// Read tells damage apart from a file that can not be read.
func (u *unzipped) Read(p []byte) (int, error) {
	n, err := u.z.Read(p)
	var file *fs.PathError
	if err == nil || err == io.EOF || errors.As(err, &file) || errors.Is(err, context.Canceled) || errors.Is(err, context.DeadlineExceeded) {
		return n, err
	}
	return n, damaged(err)
}

// damaged is ErrDamaged with its cause.
func damaged(err error) error {
	if errors.Is(err, ErrDamaged) {
		return err
	}
	return fmt.Errorf("%w: %w", ErrDamaged, err)
}

func readParts(t *tar.Reader, v visitor) (*Manifest, error) {
	var m *Manifest
	for first := true; ; first = false {
		h, err := t.Next()
		if err == io.EOF && m != nil {
			return m, nil
		}
		if err == io.EOF {
			return nil, fmt.Errorf("%w: it has no end: the manifest is missing", ErrDamaged)
		}
		if err != nil {
			return nil, err
		}
		if h.Typeflag != tar.TypeReg || h.Size < 0 || path.Clean(h.Name) != h.Name || path.IsAbs(h.Name) || strings.HasPrefix(h.Name, "..") ||
			strings.ContainsRune(h.Name, 0) {
			return nil, fmt.Errorf("%w: it has a part %q of type %q: a backup has plain files only", ErrDamaged, h.Name, h.Typeflag)
		}
		if first != (h.Name == headerName) || m != nil {
			return nil, fmt.Errorf("%w: it has a part %q in the wrong place: is it a backup of Lyceum?", ErrDamaged, h.Name)
		}
		if m, err = readPart(t, h, v); err != nil {
			return nil, err
		}
	}
}

// readPart gives one part to the visitor; it returns the manifest when that is what the part is.
func readPart(t *tar.Reader, h *tar.Header, v visitor) (*Manifest, error) {
	switch name := h.Name; {
	case name == headerName:
		return nil, readHeader(t, h, v)
	case name == configName || name == secretName:
		if v.config == nil {
			return nil, nil
		}
		text, err := readWhole(t, h, maxSmall)
		if err != nil {
			return nil, err
		}
		return nil, v.config(name, text)
	case name == tablesName:
		return nil, readTables(t, h, v)
	case strings.HasPrefix(name, rowsPrefix):
		table, _, ok := strings.Cut(strings.TrimPrefix(name, rowsPrefix), "/")
		if !ok || h.Size > maxPiece {
			return nil, fmt.Errorf("%w: a piece %q of %d bytes", ErrDamaged, name, h.Size)
		}
		if v.rows != nil {
			return nil, v.rows(table, newRowReader(t, h.Size))
		}
	case strings.HasPrefix(name, blobPrefix):
		if v.blob != nil {
			return nil, v.blob(strings.TrimPrefix(name, blobPrefix), h.Size, t)
		}
	case strings.HasPrefix(name, listPrefix):
		return nil, readList(t, h, v)
	case name == manifestName:
		m := &Manifest{}
		if err := readJSON(t, h, maxManifest, m); err != nil {
			return nil, err
		}
		return m, m.check()
	default:
		return nil, fmt.Errorf("%w: it has a part %q that no backup has", ErrDamaged, name)
	}
	return nil, nil
}

func readHeader(t *tar.Reader, h *tar.Header, v visitor) error {
	var head header
	if err := readJSON(t, h, maxSmall, &head); err != nil {
		return err
	}
	if head.Format < 1 || head.Format > Format {
		return fmt.Errorf("the backup has format %d and this version reads up to %d: use a newer version", head.Format, Format)
	}
	if v.header == nil {
		return nil
	}
	return v.header(head)
}

func readTables(t *tar.Reader, h *tar.Header, v visitor) error {
	var tables []db.Table
	if err := readJSON(t, h, maxSmall, &tables); err != nil {
		return err
	}
	if err := checkTables(tables); err != nil || v.tables == nil {
		return err
	}
	return v.tables(tables)
}

func readList(t *tar.Reader, h *tar.Header, v visitor) error {
	if v.list == nil {
		return nil
	}
	text, err := readWhole(t, h, maxManifest)
	if err != nil {
		return err
	}
	entries, err := decodeList(text)
	if err != nil {
		return err
	}
	return v.list(entries)
}

func decodeList(text []byte) ([]Entry, error) {
	var out []Entry
	for line := range bytes.Lines(text) {
		var e Entry
		d := json.NewDecoder(bytes.NewReader(line))
		d.DisallowUnknownFields()
		if err := d.Decode(&e); err != nil || e.Key == "" || e.Size < 0 || len(e.SHA256) != 64 {
			return nil, fmt.Errorf("%w: the list of blobs has the line %.200q", ErrDamaged, line)
		}
		if out = append(out, e); len(out) > maxPending {
			return nil, fmt.Errorf("%w: a list of more than %d blobs", ErrDamaged, maxPending)
		}
	}
	return out, nil
}

func readWhole(t io.Reader, h *tar.Header, limit int64) ([]byte, error) {
	if h.Size > limit {
		return nil, fmt.Errorf("%w: %s has %d bytes, at most %d are expected", ErrDamaged, h.Name, h.Size, limit)
	}
	return io.ReadAll(t)
}

func readJSON(t io.Reader, h *tar.Header, limit int64, into any) error {
	text, err := readWhole(t, h, limit)
	if err != nil {
		return err
	}
	if err := json.Unmarshal(text, into); err != nil {
		return fmt.Errorf("%w: %s: %w", ErrDamaged, h.Name, err)
	}
	return nil
}
