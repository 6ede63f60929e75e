package stream

import (
	"encoding/base64"
	"encoding/binary"
	"errors"
	"hash/crc32"
	"math/rand/v2"
	"slices"
	"strings"
	"testing"
)

// firstLayout is that of the first form.
func firstLayout(described bool) *Layout {
	l := NewLayout(placed(firstForm...)...)
	l.SelfDescribing = described
	return l
}

// placed puts parts one behind the other.
func placed(parts ...Part) []Part {
	parts = slices.Clone(parts)
	at := 0
	for i := range parts {
		parts[i].At = at
		at += parts[i].N
	}
	return parts
}

// sealed is a token of any body.
func sealed(form byte, body ...byte) string {
	return string(appendToken(nil, form, slices.Clone(body)))
}

func decode(t testing.TB, l *Layout, token string) (Token, []int64) {
	t.Helper()
	positions := make([]int64, l.size)
	for i := range positions {
		positions[i] = -1 // of a request before
	}
	out, err := l.Decode(token, positions)
	if err != nil {
		t.Fatalf("%s: %v", token, err)
	}
	return out, positions
}

// TestTokensOfBeforeAreRead reads what the program wrote before tokens described themselves. These texts never change.
func TestTokensOfBeforeAreRead(t *testing.T) {
	counted, powers := make([]int64, 50), make([]int64, 50)
	for i := range counted {
		counted[i], powers[i] = int64(i+1), 1<<(i%35)
	}
	busy := slices.Concat(slices.Repeat([]int64{625_000_000_000}, 16), slices.Repeat([]int64{1_250_000_000_000}, 24),
		slices.Repeat([]int64{12_500_000_000}, 10))
	young := make([]int64, 50)
	young[7], young[36] = 48, 1
	for _, c := range []struct {
		token     string
		log       uint32
		positions []int64
	}{
		{"sAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAbf0", 0, make([]int64, 50)},
		{"sAAAABwECAwQFBgcICQoLDA0ODxAREhMUFRYXGBkaGxwdHh8gISIjJCUmJygpKissLS4vMDEytaw", 7, counted},
		{"sEjRWeAECBAgQIECAAYACgASACIAQgCCAQICAAYCAAoCABICACICAEICAIICAQICAgAGAgIACgICABICAgAiAgIAQgICAIICAgECAgICAAYCAg" +
			"IACgICAgASAgICACICAgIAQgICAgCCAgICAQAECBAgQIECAAYACgASACIAQgCCAQICAAfBg", 0x12345678, powers},
		{"s_____4DUnKeYEoDUnKeYEoDUnKeYEoDUnKeYEoDUnKeYEoDUnKeYEoDUnKeYEoDUnKeYEoDUnKeYEoDUnKeYEoDUnKeYEoDUnKeYEoDUnKeYE" +
			"oDUnKeYEoDUnKeYEoDUnKeYEoCouc6wJICouc6wJICouc6wJICouc6wJICouc6wJICouc6wJICouc6wJICouc6wJICouc6wJICouc6wJICouc6" +
			"wJICouc6wJICouc6wJICouc6wJICouc6wJICouc6wJICouc6wJICouc6wJICouc6wJICouc6wJICouc6wJICouc6wJICouc6wJICouc6wJIC6u" +
			"8gugLq7yC6AurvILoC6u8gugLq7yC6AurvILoC6u8gugLq7yC6AurvILoC6u8guPAw", 1<<32 - 1, busy},
		{"sAAAAAAAAAAAAAAAwAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAEAAAAAAAAAAAAAAAAABJA", 0, young}, // of a real /sync
	} {
		for _, described := range []bool{false, true} {
			l := firstLayout(described)
			token, positions := decode(t, l, c.token)
			if token.Log != c.log || token.NewerFormat || token.Carried != "" || !slices.Equal(positions, c.positions) {
				t.Errorf("%s: found %+v %v", c.token, token, positions)
			}
			for _, p := range l.parts {
				if !token.Has(p.Number) || token.Stale(p.Number) {
					t.Errorf("%s: stream %d is not known", c.token, p.Number)
				}
			}
			again := l.Encode(c.log, positions, "")
			if !described && again != c.token { // a process of the version before reads it
				t.Errorf("%s became %s", c.token, again)
			}
			if described && again[0] != 'v' {
				t.Errorf("%s does not describe itself", again)
			}
			if _, same := decode(t, l, again); !slices.Equal(positions, same) {
				t.Errorf("%v became %v", positions, same)
			}
			// Who knows one stream only reads that, and gives the rest back.
			p := firstForm[3]
			one := NewLayout(p)
			token, own := decode(t, one, c.token)
			if !token.Has(p.Number) || !slices.Equal(own, c.positions[32:40]) {
				t.Errorf("%s: stream %d alone: %v", c.token, p.Number, own)
			}
			if token, same := decode(t, l, one.Encode(c.log, own, token.Carried)); token.Carried != "" || !slices.Equal(positions, same) {
				t.Errorf("%v became %v", positions, same)
			}
		}
	}
}

// TestTheDescribedFormStays holds the form in which tokens are written from now on.
func TestTheDescribedFormStays(t *testing.T) {
	l := NewLayout(placed(Part{Number: 1, N: 3}, Part{Number: 9, Generation: 2, N: 1})...)
	const want = "vAgAAAAcBAAMBrAIDCQIBBVjJ"
	if got := l.Encode(7, []int64{1, 300, 3, 5}, ""); got != want {
		t.Errorf("written as %s", got)
	}
	if token, positions := decode(t, l, want); token.Log != 7 || !token.Has(1) || !token.Has(9) ||
		!slices.Equal(positions, []int64{1, 300, 3, 5}) {
		t.Errorf("read as %+v %v", token, positions)
	}
}

// TestTokensOfOtherVersions: what a version does not know is carried on, what it does not find is told.
func TestTokensOfOtherVersions(t *testing.T) {
	older := NewLayout(placed(Part{Number: 1, N: 2}, Part{Number: 3, N: 1})...)
	newer := NewLayout(placed(Part{Number: 1, N: 2}, Part{Number: 3, N: 1}, Part{Number: 5, N: 3}, Part{Number: 63, Generation: 4, N: 1})...)
	token := newer.Encode(9, []int64{10, 11, 12, 13, 14, 15, 16}, "")
	at := []int64{10, 11, 12, 13, 14, 15, 16}
	for i := range 5 { // through older processes again and again
		told, positions := decode(t, older, token)
		if told.Log != 9 || !told.Has(1) || !told.Has(3) || told.Has(5) || told.Stale(5) || !slices.Equal(positions, at[:3]) {
			t.Fatalf("found %+v %v", told, positions)
		}
		at[0], positions[0] = at[0]+1, positions[0]+1
		if token = older.Encode(9, positions, told.Carried); i%2 == 0 {
			continue
		}
		told, positions = decode(t, newer, token)
		if !told.Has(5) || !told.Has(63) || told.Carried != "" || !slices.Equal(positions, at) {
			t.Fatalf("found %+v %v, expected %v", told, positions, at)
		}
		at[4]++
		token = newer.Encode(9, at, told.Carried)
	}
	told, positions := decode(t, newer, older.Encode(9, []int64{1, 2, 3}, ""))
	if told.Has(5) || told.Stale(5) || !slices.Equal(positions, []int64{1, 2, 3, 0, 0, 0, 0}) {
		t.Errorf("a stream that the token does not know: %+v %v", told, positions)
	}
	for _, p := range []Part{{Number: 1, N: 4}, {Number: 1, Generation: 1, N: 2}, {Number: 1, N: 1}} {
		told, positions := decode(t, older, NewLayout(placed(p, Part{Number: 3, N: 1})...).Encode(9, []int64{7, 7, 7, 7, 7}, ""))
		if told.Has(1) || !told.Stale(1) || !told.Has(3) || told.Carried != "" || !slices.Equal(positions, []int64{0, 0, 7}) {
			t.Errorf("other shards, %+v: %+v %v", p, told, positions)
		}
	}
	if told, _ := decode(t, older, sealed('v', 3, 1, 2, 3)); !told.NewerFormat {
		t.Error("a token of a later format was read")
	}
}

func TestDamagedTokensAreErrors(t *testing.T) {
	l := firstLayout(true)
	positions := make([]int64, l.size)
	for i := range positions {
		positions[i] = 1<<34 - 1 - int64(i)
	}
	described := l.Encode(5, positions, "")
	first := firstLayout(false).Encode(5, positions, "")
	bad := []string{
		"", "s", "v", "vAAAA", "x", strings.Repeat("v", longestToken+1), sealed('v', 2, 0, 0, 0), sealed('v', 1, 0, 0, 0, 0),
		sealed('v', 0, 0, 0, 0, 0),
		sealed('v', 2, 0, 0, 0, 0, 1), sealed('v', 2, 0, 0, 0, 0, 1, 0), sealed('v', 2, 0, 0, 0, 0, 1, 0, 1), // cut
		sealed('v', append([]byte{2, 0, 0, 0, 0, 1, 0, 1}, binary.AppendUvarint(nil, 1<<62+1)...)...), // a position too high
		sealed('v', append([]byte{2, 0, 0, 0, 0, 1, 0}, binary.AppendUvarint(nil, 1<<40)...)...),
		sealed('v', slices.Concat([]byte{2, 0, 0, 0, 0}, slices.Repeat([]byte{255}, 11), []byte{0, 0})...),
		sealed('s', make([]byte, 53)...), sealed('s', make([]byte, 55)...), sealed('t', make([]byte, 54)...),
	}
	for _, good := range []string{described, first} {
		for _, i := range []int{1, 9, len(good) / 2, len(good) - 1} {
			bad = append(bad, good[:i], good[:i]+"~"+good[i+1:], good[:i]+string(good[i]^1)+good[i+1:])
		}
		bad = append(bad, good+"A", good+"AAAA", "t"+good[1:])
	}
	for _, token := range bad {
		if _, err := l.Decode(token, positions); !errors.Is(err, ErrToken) {
			t.Errorf("the token %q was taken: %v", token, err)
		}
	}
}

// TestTokensAreShort: what one version knows stays below MaxToken whatever the positions are, and what it carries for others
// never makes a token that is not read.
func TestTokensAreShort(t *testing.T) {
	l := firstLayout(false)
	most := slices.Repeat([]int64{1 << 62}, l.size)
	token := l.Encode(1<<32-1, most, "")
	if len(token) > MaxToken || token[0] != 'v' { // the first form's readers take no longer ones
		t.Errorf("%d characters: %s", len(token), token)
	}
	other := NewLayout(Part{Number: 40, N: 310})
	carried, _ := decode(t, l, other.Encode(1<<32-1, slices.Repeat([]int64{1 << 62}, 310), ""))
	if len(carried.Carried) < 2700 {
		t.Fatalf("%d bytes are carried", len(carried.Carried))
	}
	for _, positions := range [][]int64{make([]int64, l.size), most} {
		token := l.Encode(1<<32-1, positions, carried.Carried)
		if len(token) > longestToken {
			t.Errorf("%d characters", len(token))
		}
		if _, same := decode(t, l, token); !slices.Equal(same, positions) {
			t.Errorf("%v became %v", positions, same)
		}
	}
}

// TestTokensOfAnyStreams writes random positions of random streams and reads them with another layout and back.
func TestTokensOfAnyStreams(t *testing.T) {
	seed := rand.Uint64()
	r := rand.New(rand.NewPCG(seed, 1))
	for range 3000 {
		var all, some []Part
		for _, number := range r.Perm(MaxNumber)[:1+r.IntN(10)] {
			p := Part{Number: number + 1, Generation: r.IntN(300), N: 1 + r.IntN(20)}
			if all = append(all, p); r.IntN(2) == 0 {
				some = append(some, p)
			}
		}
		full := NewLayout(placed(all...)...)
		positions, log := make([]int64, full.size), r.Uint32()
		for i := range positions {
			positions[i] = r.Int64N(1 << (1 + r.IntN(62)))
		}
		part := NewLayout(placed(some...)...)
		told, own := decode(t, part, full.Encode(log, positions, ""))
		again := part.Encode(told.Log, own, told.Carried)
		told, same := decode(t, full, again)
		if told.Log != log || told.Carried != "" || !slices.Equal(same, positions) {
			t.Fatalf("seed %d: %v of %v became %v through %v", seed, positions, all, same, some)
		}
	}
}

func FuzzDecodeToken(f *testing.F) {
	l := NewLayout(placed(Part{Number: 1, N: 16}, Part{Number: 6, N: 1}, Part{Number: 12, Generation: 3, N: 2})...)
	first := firstLayout(false)
	for _, token := range []string{
		first.Encode(7, make([]int64, 50), ""), first.Encode(7, slices.Repeat([]int64{1 << 40}, 50), ""), firstLayout(true).Encode(7,
			make([]int64, 50), ""),
		l.Encode(7, slices.Repeat([]int64{5}, 19), "\x2a\x00\x01\x05"), l.Encode(7, slices.Repeat([]int64{5}, 19), "\x01\x01\x01\x05"),
	} {
		b, err := base64.RawURLEncoding.DecodeString(token[1:])
		if err != nil {
			f.Fatal(err)
		}
		f.Add(token[0] == 'v', b[:len(b)-checksum])
	}
	f.Fuzz(func(t *testing.T, described bool, body []byte) { // nothing random has a right checksum
		form := byte('s')
		if described {
			form = 'v'
		}
		b := binary.BigEndian.AppendUint16(slices.Clone(body), uint16(crc32.ChecksumIEEE(body)))
		positions := make([]int64, l.size)
		token, err := l.Decode(string(form)+base64.RawURLEncoding.EncodeToString(b), positions)
		if err != nil {
			if !errors.Is(err, ErrToken) {
				t.Fatal(err)
			}
			return
		}
		if token.NewerFormat {
			return
		}
		for _, pos := range positions {
			if pos < 0 || pos > 1<<62 {
				t.Fatalf("position %d", pos)
			}
		}
		again := l.Encode(token.Log, positions, token.Carried)
		same := make([]int64, l.size)
		back, err := l.Decode(again, same)
		if err != nil || back.Log != token.Log || !slices.Equal(positions, same) || back.Carried != token.Carried {
			t.Fatalf("%v %+v became %v %+v: %v", positions, token, same, back, err)
		}
	})
}
