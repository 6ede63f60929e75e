package matrix

import (
	"bytes"
	"crypto/ed25519"
	"encoding/base64"
	"errors"
	"fmt"
	"io"
	"strings"
)

// ErrSignature is the reason of every signature that does not hold.
var ErrSignature = errors.New("signature check failed")

// SigningKey is an ed25519 key with its id, "ed25519:" and a name of
// [a-zA-Z0-9_].
type SigningKey struct {
	ID      string
	Private ed25519.PrivateKey
}

// NewSigningKey makes a key from its 32 byte seed. name is the part of the key
// id behind "ed25519:".
func NewSigningKey(name string, seed []byte) (SigningKey, error) {
	if len(seed) != ed25519.SeedSize {
		return SigningKey{}, fmt.Errorf("signing key: expected a seed of 32 bytes, found %d", len(seed))
	}
	id := "ed25519:" + name
	if !ValidKeyID(id) {
		return SigningKey{}, fmt.Errorf("signing key: name %q may hold only a-z A-Z 0-9 _", name)
	}
	return SigningKey{ID: id, Private: ed25519.NewKeyFromSeed(seed)}, nil
}

// GenerateSigningKey makes a new key from the random bytes of r.
func GenerateSigningKey(name string, r io.Reader) (SigningKey, error) {
	seed := make([]byte, ed25519.SeedSize)
	if _, err := io.ReadFull(r, seed); err != nil {
		return SigningKey{}, err
	}
	return NewSigningKey(name, seed)
}

// ValidKeyID reports whether id names an ed25519 server key.
func ValidKeyID(id string) bool {
	name, ok := strings.CutPrefix(id, "ed25519:")
	if !ok || name == "" {
		return false
	}
	for i := range len(name) {
		if !isAlnum(name[i]) && name[i] != '_' {
			return false
		}
	}
	return true
}

// Seed gives the 32 bytes the key is made from.
func (k SigningKey) Seed() []byte { return k.Private.Seed() }

// Public gives the verification key.
func (k SigningKey) Public() ed25519.PublicKey {
	return k.Private.Public().(ed25519.PublicKey)
}

// Sign gives the 64 byte signature of msg.
func (k SigningKey) Sign(msg []byte) []byte { return ed25519.Sign(k.Private, msg) }

// Base64 is the unpadded base64 of the specification.
func Base64(b []byte) string { return base64.RawStdEncoding.EncodeToString(b) }

// Base64URL is the URL-safe unpadded base64 of the specification.
func Base64URL(b []byte) string { return base64.RawURLEncoding.EncodeToString(b) }

// DecodeBase64 takes both alphabets, with or without padding.
func DecodeBase64(s string) ([]byte, error) {
	s = strings.TrimRight(s, "=")
	if strings.ContainsAny(s, "-_") {
		return base64.RawURLEncoding.DecodeString(s)
	}
	return base64.RawStdEncoding.DecodeString(s)
}

func canonicalObject(raw []byte) ([]byte, error) {
	obj, err := CanonicalJSONLenient(raw)
	if err != nil {
		return nil, err
	}
	if len(obj) == 0 || obj[0] != '{' {
		return nil, errNoObject
	}
	return obj, nil
}

// SignJSON gives the canonical form of the object raw with the signature of
// entity (a server name, a user id) by key added (appendices, "Signing
// JSON"). signatures and unsigned are not covered by the signature; other
// signatures stay. It is for federation.
func SignJSON(raw []byte, entity string, key SigningKey) ([]byte, error) {
	obj, err := canonicalObject(raw)
	if err != nil {
		return nil, err
	}
	msg := AppendWithout(make([]byte, 0, len(obj)), obj, "signatures", "unsigned")
	return AddSignature(obj, entity, key.ID, key.Sign(msg))
}

// AddSignature adds one signature to the canonical object obj and gives the
// new canonical text.
func AddSignature(obj []byte, entity, keyID string, sig []byte) ([]byte, error) {
	old := Lookup(obj, "signatures")
	if len(old) > 0 && old[0] != '{' {
		return nil, fmt.Errorf("%w: signatures is not an object", ErrSignature)
	}
	own := setMember(lookupKey(old, entity), keyID, AppendString(nil, Base64(sig)))
	return setMember(obj, "signatures", setMember(old, entity, own)), nil
}

// lookupKey is Lookup for a key that may need escapes.
func lookupKey(obj []byte, key string) []byte {
	q := AppendString(nil, key)
	return Lookup(obj, string(q[1:len(q)-1]))
}

// setMember gives the canonical object obj (nothing or no object counts as
// {}) with one member set.
func setMember(obj []byte, key string, value []byte) []byte {
	q := AppendString(nil, key)
	escaped := bytes.IndexByte(q, '\\') >= 0
	out := append(make([]byte, 0, len(obj)+len(q)+len(value)+4), '{')
	put := func(raw ...[]byte) {
		if len(out) > 1 {
			out = append(out, ',')
		}
		for _, r := range raw {
			out = append(out, r...)
		}
	}
	done := false
	for i := 1; len(obj) > 0 && obj[0] == '{'; {
		m, next, ok := NextMember(obj, i)
		if !ok {
			break
		}
		i = next
		if !done {
			d := compareKeys(m.Key, q[1:len(q)-1], escaped || bytes.IndexByte(m.Key, '\\') >= 0)
			if d >= 0 {
				put(q, []byte{':'}, value)
				done = true
			}
			if d == 0 {
				continue
			}
		}
		put(m.Raw)
	}
	if !done {
		put(q, []byte{':'}, value)
	}
	return append(out, '}')
}

// SetMember gives the canonical object obj with one member set to value,
// which must be canonical JSON itself.
func SetMember(obj []byte, key string, value []byte) []byte { return setMember(obj, key, value) }

// VerifyJSON checks the signature of entity under keyID on the object raw
// (appendices, "Checking for a Signature"). Errors wrap ErrSignature.
func VerifyJSON(raw []byte, entity, keyID string, public ed25519.PublicKey) error {
	obj, err := canonicalObject(raw)
	if err != nil {
		return fmt.Errorf("%w: %w", ErrSignature, err)
	}
	encoded, ok := Unquote(lookupKey(lookupKey(Lookup(obj, "signatures"), entity), keyID))
	if !ok {
		return fmt.Errorf("%w: no signature of %s by %s", ErrSignature, entity, keyID)
	}
	msg := AppendWithout(make([]byte, 0, len(obj)), obj, "signatures", "unsigned")
	return VerifyBytes(msg, encoded, public)
}

// VerifyBytes checks a base64 signature of msg. Errors wrap ErrSignature.
func VerifyBytes(msg []byte, signature string, public ed25519.PublicKey) error {
	sig, err := DecodeBase64(signature)
	if err != nil || len(sig) != ed25519.SignatureSize {
		return fmt.Errorf("%w: not 64 bytes in base64", ErrSignature)
	}
	if len(public) != ed25519.PublicKeySize {
		return fmt.Errorf("%w: expected a public key of 32 bytes, found %d", ErrSignature, len(public))
	}
	if !ed25519.Verify(public, msg, sig) {
		return fmt.Errorf("%w: wrong signature", ErrSignature)
	}
	return nil
}

// KeyIDs lists the ed25519 key ids under which entity signed the object raw.
func KeyIDs(raw []byte, entity string) ([]string, error) {
	obj, err := canonicalObject(raw)
	if err != nil {
		return nil, err
	}
	own := lookupKey(Lookup(obj, "signatures"), entity)
	if len(own) == 0 || own[0] != '{' {
		return nil, nil
	}
	var ids []string
	for i := 1; ; {
		m, next, ok := NextMember(own, i)
		if !ok {
			return ids, nil
		}
		i = next
		if id := string(m.Key); strings.HasPrefix(id, "ed25519:") {
			ids = append(ids, id)
		}
	}
}
