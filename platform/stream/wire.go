package stream

import (
	"encoding/binary"
	"errors"
	"unsafe"
)

// maxInline is the largest row that travels on the bus, in bytes; readers fetch larger ones.
const maxInline = 16 << 10

// encodeRows writes: incarnation of the sender, the time of sending in ms since 1970 (0: these rows are not news), then for
// each row its shard, position, 1 + length of data (0: not sent) and data, length of key and key.
func encodeRows(from, at int64, rows []Row) []byte {
	size := 24
	for _, r := range rows {
		size += 16 + len(r.Key) + len(r.Data)
	}
	b := binary.AppendVarint(make([]byte, 0, size), from)
	b = binary.AppendVarint(b, at)
	for _, r := range rows {
		b = binary.AppendUvarint(b, uint64(r.Shard))
		b = binary.AppendUvarint(b, uint64(r.Pos))
		if r.Data == nil || len(r.Data) > maxInline {
			b = append(b, 0)
			continue
		}
		b = binary.AppendUvarint(b, uint64(len(r.Data))+1)
		b = append(b, r.Data...)
		b = binary.AppendUvarint(b, uint64(len(r.Key)))
		b = append(b, r.Key...)
	}
	return b
}

var errRows = errors.New("expected rows, found a damaged message")

// rowReader reads a message row by row without a copy: the rows share its bytes, which nobody changes.
type rowReader struct {
	b      []byte
	shards int
	err    error
}

// header reads who sent the message, and when.
func (r *rowReader) header() (from, at int64) {
	for _, v := range []*int64{&from, &at} {
		n := 0
		if *v, n = binary.Varint(r.b); n <= 0 {
			r.err = errRows
			return 0, 0
		}
		r.b = r.b[n:]
	}
	return from, at
}

// next reads a row; not ok at the end, or when err is set.
func (r *rowReader) next() (row Row, ok bool) {
	if len(r.b) == 0 || r.err != nil {
		return row, false
	}
	shard, pos := r.number(), int64(r.number())
	if shard >= uint64(r.shards) || pos < 0 {
		r.err = errRows
		return row, false
	}
	row.Shard, row.Pos = int(shard), pos
	if n := r.number(); n > 0 {
		row.Data = r.bytes(n - 1)
		if key := r.bytes(r.number()); len(key) > 0 {
			row.Key = unsafe.String(&key[0], len(key))
		}
	}
	return row, r.err == nil
}

func (r *rowReader) number() uint64 {
	v, n := binary.Uvarint(r.b)
	if n <= 0 {
		r.err = errRows
		return 0
	}
	r.b = r.b[n:]
	return v
}

func (r *rowReader) bytes(n uint64) []byte {
	if n > uint64(len(r.b)) {
		r.err = errRows
		return nil
	}
	out := r.b[:n:n]
	r.b = r.b[n:]
	return out
}

// decodeRows reads a whole message.
func decodeRows(b []byte, shards int) (from, at int64, rows []Row, err error) {
	r := rowReader{b: b, shards: shards}
	from, at = r.header()
	for row, ok := r.next(); ok; row, ok = r.next() {
		rows = append(rows, row)
	}
	return from, at, rows, r.err
}
