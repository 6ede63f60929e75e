package stream

import (
	"encoding/base64"
	"encoding/binary"
	"errors"
	"hash/crc32"
)

// MaxToken is the longest token in characters.
const MaxToken = 400

// ErrToken says that a token was not made by EncodeToken for the same streams.
var ErrToken = errors.New("expected a token that this server gave out")

// EncodeToken writes the positions of shards as one token of letters, digits, - and _: 4 bytes of the
// log's epoch, then all positions as varints, then a checksum that finds damage.
func EncodeToken(epoch uint32, positions []int64) string {
	b := binary.BigEndian.AppendUint32(make([]byte, 0, 8+5*len(positions)), epoch)
	for _, p := range positions {
		b = binary.AppendUvarint(b, uint64(p))
	}
	b = binary.BigEndian.AppendUint16(b, uint16(crc32.ChecksumIEEE(b)))
	return "s" + base64.RawURLEncoding.EncodeToString(b)
}

// DecodeToken reads a token of n positions.
func DecodeToken(token string, n int) (epoch uint32, positions []int64, err error) {
	if len(token) < 2 || len(token) > MaxToken || token[0] != 's' {
		return 0, nil, ErrToken
	}
	b, err := base64.RawURLEncoding.DecodeString(token[1:])
	if err != nil || len(b) < 6 {
		return 0, nil, ErrToken
	}
	body, sum := b[:len(b)-2], binary.BigEndian.Uint16(b[len(b)-2:])
	if uint16(crc32.ChecksumIEEE(body)) != sum {
		return 0, nil, ErrToken
	}
	epoch, body = binary.BigEndian.Uint32(body), body[4:]
	positions = make([]int64, n)
	for i := range positions {
		v, k := binary.Uvarint(body)
		if k <= 0 || v > 1<<62 {
			return 0, nil, ErrToken
		}
		positions[i], body = int64(v), body[k:]
	}
	if len(body) != 0 {
		return 0, nil, ErrToken
	}
	return epoch, positions, nil
}
