package archive

import (
	"bufio"
	"crypto/sha256"
	"encoding/binary"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"math"
	"math/bits"

	"lyceum/platform/db"
)

// A row is its values in the order of the table's columns. A value begins with one of these bytes.
const (
	markNull  = 'n'
	markInt   = 'i' // 8 bytes, big endian
	markText  = 't' // length as uvarint, then so many bytes
	markBytes = 'b' // like text
	markTrue  = '1'
	markFalse = '0'
	markFloat = 'f' // 8 bytes, IEEE 754, big endian
)

// maxPiece bounds what one row may make a reader allocate.
const maxPiece = 256 << 20

var errRow = errors.New("damaged row")

// appendRow encodes a row whose values came from an engine.
func appendRow(b []byte, t *db.Table, values []any) ([]byte, error) {
	var err error
	for i, v := range values {
		if b, err = appendValue(b, t.Columns[i].Kind, v); err != nil {
			return nil, fmt.Errorf("table %s, column %s: %w", t.Name, t.Columns[i].Name, err)
		}
	}
	return b, nil
}

func appendValue(b []byte, kind db.Kind, v any) ([]byte, error) {
	if v == nil {
		return append(b, markNull), nil
	}
	switch kind {
	case db.Integer:
		if n, ok := v.(int64); ok {
			return binary.BigEndian.AppendUint64(append(b, markInt), uint64(n)), nil
		}
	case db.Text:
		switch s := v.(type) {
		case string:
			return append(binary.AppendUvarint(append(b, markText), uint64(len(s))), s...), nil
		case []byte: // SQLite keeps what it was given
			return append(binary.AppendUvarint(append(b, markText), uint64(len(s))), s...), nil
		}
	case db.Bytes:
		switch s := v.(type) {
		case []byte:
			return append(binary.AppendUvarint(append(b, markBytes), uint64(len(s))), s...), nil
		case string:
			return append(binary.AppendUvarint(append(b, markBytes), uint64(len(s))), s...), nil
		}
	case db.Bool:
		switch x := v.(type) {
		case bool:
			if x {
				return append(b, markTrue), nil
			}
			return append(b, markFalse), nil
		case int64:
			return appendValue(b, kind, x != 0)
		}
	case db.Float:
		switch x := v.(type) {
		case float64:
			return binary.BigEndian.AppendUint64(append(b, markFloat), math.Float64bits(x)), nil
		case int64:
			return appendValue(b, kind, float64(x))
		}
	}
	return nil, fmt.Errorf("expected a value of kind %q, found a %T", kind, v)
}

// rowReader decodes the rows of one piece.
type rowReader struct {
	r    *bufio.Reader
	left int64 // bytes of the piece
}

func newRowReader(r io.Reader, size int64) *rowReader {
	return &rowReader{bufio.NewReaderSize(io.LimitReader(r, size), 64<<10), size}
}

// next decodes a row into values, which the caller may keep. It returns io.EOF after the last.
func (rr *rowReader) next(t *db.Table, values []any) error {
	if rr.left == 0 {
		return io.EOF
	}
	for i, c := range t.Columns {
		v, err := rr.value(c.Kind)
		if err != nil {
			if err == io.EOF {
				err = io.ErrUnexpectedEOF
			}
			return fmt.Errorf("table %s, column %s: %w", t.Name, c.Name, err)
		}
		values[i] = v
	}
	return nil
}

func (rr *rowReader) value(kind db.Kind) (any, error) {
	mark, err := rr.r.ReadByte()
	if err != nil {
		return nil, err
	}
	rr.left--
	switch {
	case mark == markNull:
		return nil, nil
	case mark == markInt && kind == db.Integer:
		n, err := rr.word()
		return int64(n), err
	case mark == markFloat && kind == db.Float:
		n, err := rr.word()
		return math.Float64frombits(n), err
	case mark == markTrue && kind == db.Bool:
		return true, nil
	case mark == markFalse && kind == db.Bool:
		return false, nil
	case mark == markText && kind == db.Text:
		b, err := rr.bytes()
		return string(b), err
	case mark == markBytes && kind == db.Bytes:
		return rr.bytes()
	}
	return nil, fmt.Errorf("%w: expected a value of kind %q, found the mark %q", errRow, kind, mark)
}

func (rr *rowReader) word() (uint64, error) {
	var b [8]byte
	_, err := io.ReadFull(rr.r, b[:])
	rr.left -= 8
	return binary.BigEndian.Uint64(b[:]), err
}

func (rr *rowReader) bytes() ([]byte, error) {
	n, err := binary.ReadUvarint(rr.r)
	if err != nil {
		return nil, err
	}
	rr.left -= int64(uvarintLen(n))
	if rr.left < 0 || n > uint64(rr.left) {
		return nil, fmt.Errorf("%w: a value of %d bytes where %d are left", errRow, n, rr.left)
	}
	b := make([]byte, n)
	_, err = io.ReadFull(rr.r, b)
	rr.left -= int64(n)
	return b, err
}

func uvarintLen(n uint64) int { return max(1, (bits.Len64(n)+6)/7) }

// sum adds up the SHA-256 of records modulo 2^256: it does not depend on their order.
type sum [4]uint64

func (s *sum) add(record []byte) {
	h := sha256.Sum256(record)
	var carry uint64
	for i := range s {
		s[i], carry = bits.Add64(s[i], binary.LittleEndian.Uint64(h[8*i:]), carry)
	}
}

func (s *sum) text() string {
	var b [32]byte
	for i, w := range s {
		binary.LittleEndian.PutUint64(b[8*i:], w)
	}
	return hex.EncodeToString(b[:])
}
