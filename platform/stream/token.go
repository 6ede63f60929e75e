package stream

import (
	"encoding/base64"
	"encoding/binary"
	"errors"
	"fmt"
	"hash/crc32"
	"slices"
)

// A token of positions is a letter and, in base64url, a body with the last 2 bytes of its CRC-32. It comes in two forms.
//
//   - s: the log's epoch (4 bytes), then the positions of the streams of firstForm, in this order.
//   - v: a byte that tells the format (2), the log's epoch (4 bytes), then entries in any order: number of the stream,
//     generation of its shards, n, n positions. All are uvarints.
//
// Both are read for ever. A later format keeps the letter v and the checksum, so that it can be told from damage.

const (
	// MaxToken is the longest token in characters of what one version writes of the streams that it knows.
	MaxToken = 1000
	// longestToken is the longest token that is read: a later version may write longer ones.
	longestToken = 4 * MaxToken
	// longestFirst is the longest token of the first form that older versions read.
	longestFirst = 400

	selfDescribing = 2 // the format that this version writes in form v
	checksum       = 2 // bytes
	epochSize      = 4 // bytes
)

// firstForm are the streams of tokens that begin with s: all shards of the streams that are keyed by room or by other users,
// then the receiver's own shard of the others. It never changes.
var firstForm = []Part{
	{Number: 1, N: 16}, // events
	{Number: 2, N: 8},  // receipts
	{Number: 3, N: 8},  // typing
	{Number: 4, N: 8},  // presence
	{Number: 5, N: 8},  // device lists
	{Number: 6, N: 1},  // to-device messages
	{Number: 7, N: 1},  // account data
}

// ErrToken says that a text was not made by a Layout, or was damaged.
var ErrToken = errors.New("expected a token that this server gave out")

// Part says where the positions of a stream stand in a vector, and what they are positions of.
type Part struct {
	Number     int // of the stream
	Generation int // of its shards
	At, N      int // the part of the vector: all shards, or as many as a token carries of them
}

// Part is the part of all shards of the stream.
func (st *Stream) Part(at int) Part {
	return Part{st.spec.Number, st.spec.Generation, at, st.spec.Shards}
}

// OwnPart is the part of the one shard that a receiver's rows are in.
func (st *Stream) OwnPart(at int) Part { return Part{st.spec.Number, st.spec.Generation, at, 1} }

// Layout reads and writes tokens of some streams. What it reads of others it gives back unread, to be written again: a client
// that goes from process to process loses nothing where one of them knows more streams than another.
type Layout struct {
	// SelfDescribing makes Encode write form v only. Without it, a token is written in form s where that can express it,
	// which a process of the version before can read.
	SelfDescribing bool

	parts         []Part
	size          int
	usesFirstForm bool // the parts are those of the first form
	byNum         [MaxNumber + 1]int8
}

// NewLayout makes a layout of streams that have a number, in the order of their places. It panics on a mistake in the wiring.
func NewLayout(parts ...Part) *Layout {
	l := &Layout{parts: parts, usesFirstForm: len(parts) == len(firstForm)}
	for i, p := range parts {
		if p.Number <= 0 || p.Number > MaxNumber || p.Generation < 0 || p.N <= 0 || p.At < l.size || l.byNum[p.Number] != 0 {
			panic(fmt.Sprintf("stream: the part %+v of a token is wrong, or its place or number is taken", p))
		}
		l.byNum[p.Number] = int8(i + 1)
		l.size = p.At + p.N
		l.usesFirstForm = l.usesFirstForm && i < len(firstForm) && p.Number == firstForm[i].Number && p.Generation == 0 && p.N == firstForm[i].N
	}
	return l
}

// Token holds what a token contains besides positions.
type Token struct {
	Log uint32 // the epoch of the log; positions of another one mean nothing
	// NewerFormat says that a later version wrote the token in a format that this one can not read; nothing else is set.
	NewerFormat bool
	// Carried are the entries of streams that the layout does not have, as they were.
	Carried string

	read, stale uint64 // bits by number
}

// Has tells whether the positions of a stream were read.
func (t *Token) Has(number int) bool { return t.read&(1<<number) != 0 }

// Stale tells whether the token knows the stream, but with other shards than the layout: its positions mean nothing.
func (t *Token) Stale(number int) bool { return !t.Has(number) && t.stale&(1<<number) != 0 }

// Decode reads a token. The positions of streams that it has go to positions, which holds 0 for all others. Errors: ErrToken.
func (l *Layout) Decode(token string, positions []int64) (t Token, err error) {
	if len(token) < 2 || len(token) > longestToken || token[0] != 's' && token[0] != 'v' {
		return t, ErrToken
	}
	b, err := base64.RawURLEncoding.DecodeString(token[1:])
	if err != nil || len(b) < epochSize+checksum {
		return t, ErrToken
	}
	body, sum := b[:len(b)-checksum], binary.BigEndian.Uint16(b[len(b)-checksum:])
	if uint16(crc32.ChecksumIEEE(body)) != sum {
		return t, ErrToken
	}
	clear(positions[:l.size])
	if token[0] == 's' {
		err = l.decodeFirstForm(&t, body, positions)
	} else {
		err = l.decodeSelfDescribing(&t, body, positions)
	}
	return t, err
}

// decodeFirstForm reads the body of a token of form s.
func (l *Layout) decodeFirstForm(t *Token, body []byte, positions []int64) error {
	var carried []byte
	t.Log, body = binary.BigEndian.Uint32(body), body[epochSize:]
	for _, p := range firstForm {
		n, known, err := l.readPositions(t, p, body, positions)
		if err != nil {
			return err
		}
		if !known {
			carried = append(appendPartHeader(carried, p), body[:n]...)
		}
		body = body[n:]
	}
	if len(body) != 0 {
		return ErrToken
	}
	t.Carried = string(carried)
	return nil
}

// decodeSelfDescribing reads the body of a token of form v.
func (l *Layout) decodeSelfDescribing(t *Token, body []byte, positions []int64) error {
	switch format := body[0]; {
	case format > selfDescribing:
		t.NewerFormat = true
		return nil
	case format < selfDescribing || len(body) < 1+epochSize:
		return ErrToken
	}
	var carried []byte
	t.Log, body = binary.BigEndian.Uint32(body[1:]), body[1+epochSize:]
	for len(body) > 0 {
		var header [3]uint64 // number, generation, n
		entry := body
		for i := range header {
			v, k := binary.Uvarint(body)
			if k <= 0 || v > 1<<31-1 {
				return ErrToken
			}
			header[i], body = v, body[k:]
		}
		p := Part{Number: int(header[0]), Generation: int(header[1]), N: int(header[2])}
		n, known, err := l.readPositions(t, p, body, positions)
		if err != nil {
			return err
		}
		if body = body[n:]; !known {
			carried = append(carried, entry[:len(entry)-len(body)]...)
		}
	}
	t.Carried = string(carried)
	return nil
}

// readPositions reads the positions of a stream from the start of body; p is what the token says of the stream. It
// returns the number of bytes read, and whether the layout has the stream.
func (l *Layout) readPositions(t *Token, p Part, body []byte, into []int64) (n int, known bool, err error) {
	if p.N > len(body) {
		return 0, false, ErrToken
	}
	var to []int64
	if known = p.Number > 0 && p.Number <= MaxNumber && l.byNum[p.Number] != 0; known {
		if mine := &l.parts[l.byNum[p.Number]-1]; mine.Generation == p.Generation && mine.N == p.N {
			to = into[mine.At : mine.At+mine.N]
			t.read |= 1 << p.Number
		} else {
			t.stale |= 1 << p.Number
		}
	}
	for i := range p.N {
		v, k := binary.Uvarint(body[n:])
		if k <= 0 || v > 1<<62 {
			return 0, known, ErrToken
		}
		if n += k; to != nil {
			to[i] = int64(v)
		}
	}
	return n, known, nil
}

func appendPartHeader(b []byte, p Part) []byte {
	b = binary.AppendUvarint(b, uint64(p.Number))
	b = binary.AppendUvarint(b, uint64(p.Generation))
	return binary.AppendUvarint(b, uint64(p.N))
}

// Encode writes positions, and what was carried of other streams, as a token of letters, digits, - and _. What is carried
// is left out where the token would be too long to be read.
func (l *Layout) Encode(log uint32, positions []int64, carried string) string {
	return string(l.Append(nil, log, positions, carried))
}

// Append is Encode at the end of a text.
func (l *Layout) Append(text []byte, log uint32, positions []int64, carried string) []byte {
	// The body is built in text, behind the place of the token, so that most tokens need no other memory.
	usual := 16 + 5*l.size
	text = slices.Grow(text, tokenLen(usual)+usual)
	at := len(text) + tokenLen(usual)
	buf := text[:cap(text)][at : at : at+usual]
	if l.usesFirstForm && !l.SelfDescribing && carried == "" {
		b := binary.BigEndian.AppendUint32(buf, log)
		for i := range l.parts {
			b = l.parts[i].append(b, positions)
		}
		if tokenLen(len(b)) <= longestFirst {
			return appendToken(text, 's', b)
		}
	}
	b := binary.BigEndian.AppendUint32(append(buf, selfDescribing), log)
	for i := range l.parts {
		b = l.parts[i].append(appendPartHeader(b, l.parts[i]), positions)
	}
	if tokenLen(len(b)+len(carried)) <= longestToken {
		b = append(b, carried...)
	}
	return appendToken(text, 'v', b)
}

// append writes the positions of the part.
func (p *Part) append(b []byte, positions []int64) []byte {
	for _, pos := range positions[p.At : p.At+p.N] {
		b = binary.AppendUvarint(b, uint64(pos))
	}
	return b
}

// appendToken adds the token of a body to a text.
func appendToken(text []byte, form byte, b []byte) []byte {
	b = binary.BigEndian.AppendUint16(b, uint16(crc32.ChecksumIEEE(b)))
	return base64.RawURLEncoding.AppendEncode(append(text, form), b)
}

// tokenLen is the length of the token of a body of n bytes.
func tokenLen(n int) int { return 1 + base64.RawURLEncoding.EncodedLen(n+checksum) }
