package event

import (
	"bytes"
	"crypto/ed25519"
	"crypto/sha256"
	"encoding/base64"
	"encoding/json"
	"fmt"
	"strconv"

	"lyceum/matrix"
)

// Proto is what an event is built from.
type Proto struct {
	ID             string // only for room versions 1 and 2
	RoomID         string // ignored for the create event of room version 12
	Type           string
	Sender         string
	StateKey       *string
	Content        json.RawMessage // nil means {}
	Canonical      bool            // Content is what Version.Canonical gives
	Redacts        string          // put where the room version wants it
	OriginServerTS int64           // milliseconds
	Depth          int64
	PrevEvents     []string
	AuthEvents     []string
}

// Build makes a signed event: content hash, signature of the sender's server
// with key, and id. Errors are *matrix.Error with M_BAD_JSON or M_TOO_LARGE.
func Build(v Version, p Proto, key matrix.SigningKey) (*Event, error) {
	e, unsigned, err := Prepare(v, p, key.ID)
	if err != nil {
		return nil, err
	}
	unsigned.Sign(key)
	return e, nil
}

// signatureBytes is what a signature adds to an event besides the server's
// name, with a key id of 64 characters.
const signatureBytes = len(`,"signatures":{"":{"":""}}`) + 64 + (ed25519.SignatureSize*4+2)/3

// PendingSignature is what an event of Prepare lacks.
type PendingSignature struct {
	text      []byte // what is signed
	signature []byte // its place in the event's JSON
}

// Sign puts the signature into the event. Nobody reads the event's signatures
// before it returns.
func (u *PendingSignature) Sign(key matrix.SigningKey) {
	base64.RawStdEncoding.Encode(u.signature, key.Sign(u.text))
}

// Prepare is Build without the signature, which takes most of its time and is
// part of neither id nor content: PendingSignature.Sign adds it with the key of keyID.
// With no keyID the event stays unsigned, with room for the signature that Sign
// adds before another server gets it.
func Prepare(v Version, p Proto, keyID string) (*Event, *PendingSignature, error) {
	content, err := contentOf(v, &p)
	if err != nil {
		return nil, nil, err
	}
	buf := scratch.Get().(*[]byte)
	defer scratch.Put(buf)

	// The members before hashes, between hashes and signatures, and behind.
	b := appendHead((*buf)[:0], &v, &p, content)
	head := len(b)
	b = append(b, ',')
	b = appendMiddle(b, &v, &p)
	middle := len(b)
	b = append(b, ',')
	b = appendTail(b, &p)
	end := len(b)
	hash := sha256.Sum256(b)

	// Behind it in the same buffer: the event without signatures.
	b = append(b, b[:head]...)
	b = appendHash(b, hash)
	b = append(b, b[head:end]...)
	unsigned := b[end:]
	cut := len(unsigned) - (end - middle)
	redacted := len(b)
	b = appendRedacted(b, v.ref(), unsigned, false)
	*buf = b
	signed := b[redacted:]

	server := matrix.ServerOf(p.Sender)
	out := make([]byte, 0, len(unsigned)+len(server)+len(keyID)+130)
	out = append(out, unsigned[:cut]...)
	out = append(out, `,"signatures":{`...)
	var u *PendingSignature
	size := len(unsigned) + len(server) + signatureBytes
	if keyID == "" {
		out = append(out, '}')
	} else {
		out = matrix.AppendString(out, server)
		out = append(out, ':', '{')
		out = matrix.AppendString(out, keyID)
		out = append(out, ':', '"')
		u = &PendingSignature{text: bytes.Clone(signed)}
		at := len(out)
		out = append(out, make([]byte, base64.RawStdEncoding.EncodedLen(ed25519.SignatureSize))...)
		u.signature = out[at:]
		out = append(out, '"', '}', '}')
		size = len(unsigned) - cut + len(out)
	}
	out = append(out, unsigned[cut:]...)
	if size > MaxBytes {
		return nil, nil, errTooLong()
	}
	e := &Event{JSON: out, version: v.ref()}
	if _, err := e.readMembers(); err != nil {
		return nil, nil, err
	}
	if v.IDFormat != IDField {
		e.ID = hashID(e.version, signed)
	}
	if err := e.check(); err != nil {
		return nil, nil, err
	}
	if !e.hasRoom {
		e.RoomID = "!" + e.ID[1:]
	}
	return e, u, nil
}

// contentOf gives the canonical content of an event to be built.
func contentOf(v Version, p *Proto) (content []byte, err error) {
	content = p.Content
	if len(content) == 0 {
		content = []byte("{}")
	}
	if !p.Canonical {
		if content, err = v.Canonical(content); err != nil {
			return nil, matrix.BadJSON("The content is not valid JSON for this room version").With(err)
		}
	}
	if content[0] != '{' {
		return nil, bad("content must be an object")
	}
	if p.Redacts != "" && v.RedactsInContent {
		content = matrix.SetMember(content, "redacts", matrix.AppendString(nil, p.Redacts))
	}
	return content, nil
}

func appendHead(b []byte, v *Version, p *Proto, content []byte) []byte {
	b = append(b, `{"auth_events":`...)
	b = appendRefs(b, v, p.AuthEvents)
	b = append(b, `,"content":`...)
	b = append(b, content...)
	b = append(b, `,"depth":`...)
	b = strconv.AppendInt(b, p.Depth, 10)
	if v.IDFormat == IDField {
		b = append(b, `,"event_id":`...)
		b = matrix.AppendString(b, p.ID)
	}
	return b
}

func appendMiddle(b []byte, v *Version, p *Proto) []byte {
	b = append(b, `"origin_server_ts":`...)
	b = strconv.AppendInt(b, p.OriginServerTS, 10)
	b = append(b, `,"prev_events":`...)
	b = appendRefs(b, v, p.PrevEvents)
	if p.Redacts != "" && !v.RedactsInContent {
		b = append(b, `,"redacts":`...)
		b = matrix.AppendString(b, p.Redacts)
	}
	if !v.RoomIDIsCreateHash || p.Type != TypeCreate {
		b = append(b, `,"room_id":`...)
		b = matrix.AppendString(b, p.RoomID)
	}
	b = append(b, `,"sender":`...)
	return matrix.AppendString(b, p.Sender)
}

func appendTail(b []byte, p *Proto) []byte {
	if p.StateKey != nil {
		b = append(b, `"state_key":`...)
		b = matrix.AppendString(b, *p.StateKey)
		b = append(b, ',')
	}
	b = append(b, `"type":`...)
	b = matrix.AppendString(b, p.Type)
	return append(b, '}')
}

func appendRefs(b []byte, v *Version, ids []string) []byte {
	if !v.ReferencesWithHashes {
		return matrix.AppendStrings(b, ids)
	}
	b = append(b, '[')
	for i, id := range ids {
		if i > 0 {
			b = append(b, ',')
		}
		b = append(b, '[')
		b = matrix.AppendString(b, id)
		b = append(b, `,{}]`...)
	}
	return append(b, ']')
}

func appendHash(b []byte, hash [sha256.Size]byte) []byte {
	b = append(b, `,"hashes":{"sha256":"`...)
	b = base64.RawStdEncoding.AppendEncode(b, hash[:])
	return append(b, `"}`...)
}

// Seal adds content hash and the signature of server to an event given as
// JSON, such as the template of another server's make_join, and parses the
// result. hashes, signatures and unsigned of raw are dropped.
func Seal(v Version, raw []byte, server string, key matrix.SigningKey) (*Event, error) {
	obj, err := HashAndSign(v, raw, server, key)
	if err != nil {
		return nil, err
	}
	return Parse(v, obj)
}

// HashAndSign is Seal without the checks of Parse: it gives the canonical
// text. Other members and their values stay as they are.
func HashAndSign(v Version, raw []byte, server string, key matrix.SigningKey) ([]byte, error) {
	obj, err := v.Canonical(raw)
	if err != nil {
		return nil, matrix.BadJSON("Invalid event: not canonical JSON").With(err)
	}
	if obj[0] != '{' {
		return nil, bad("expected an object")
	}
	obj = matrix.AppendWithout(make([]byte, 0, len(obj)+200), obj, "hashes", "signatures", "unsigned")
	hash := sha256.Sum256(obj)
	obj = matrix.SetMember(obj, "hashes", []byte(`{"sha256":"`+matrix.Base64(hash[:])+`"}`))
	sig := key.Sign(appendRedacted(nil, v.ref(), obj, false))
	return matrix.AddSignature(obj, server, key.ID, sig)
}

// Sign gives e with one more signature, as a resident server adds it to the
// join of a restricted room. The id stays.
func Sign(e *Event, server string, key matrix.SigningKey) (*Event, error) {
	sig := key.Sign(appendRedacted(nil, e.version, e.JSON, false))
	obj, err := matrix.AddSignature(e.JSON, server, key.ID, sig)
	if err != nil {
		return nil, err
	}
	if len(obj) > MaxBytes {
		return nil, errTooLong()
	}
	n, err := ParseTrusted(*e.version, obj, e.ID)
	if err != nil {
		return nil, err
	}
	n.Pruned = e.Pruned
	return n, nil
}

// PublicKeys finds the verification key of a server; ok is false when it is
// not known, or was not valid at the time of the event where the room version
// asks for that (Version.KeyValidity). Such signatures are skipped.
type PublicKeys func(server, keyID string) (key ed25519.PublicKey, ok bool)

// Signers lists the servers whose signature e needs (server-server API,
// "Validating hashes and signatures on received events"): the sender's server
// except for an invite made from a third-party invite, the server of the
// event id in room versions 1 and 2, and the server that authorised a
// restricted join.
func (e *Event) Signers() []string {
	servers := make([]string, 0, 2)
	add := func(s string) {
		for _, have := range servers {
			if have == s {
				return
			}
		}
		servers = append(servers, s)
	}
	thirdParty := e.Type == TypeMember && e.Membership() == MembershipInvite && matrix.Lookup(e.Content, "third_party_invite") != nil
	if !thirdParty {
		add(matrix.ServerOf(e.Sender))
	}
	if e.version.IDFormat == IDField {
		add(matrix.ServerOf(e.ID))
	}
	if e.version.Restricted && e.Type == TypeMember {
		if raw := matrix.Lookup(e.Content, "join_authorised_via_users_server"); raw != nil {
			user, _ := matrix.Unquote(raw)
			add(matrix.ServerOf(user))
		}
	}
	return servers
}

// VerifySignatures checks that every server of Signers signed e: at least one
// signature by a known key, and none that is wrong. Errors wrap
// matrix.ErrSignature. It is for federation.
func VerifySignatures(e *Event, keys PublicKeys) error {
	buf := scratch.Get().(*[]byte)
	defer scratch.Put(buf)
	msg := appendRedacted((*buf)[:0], e.version, e.JSON, false)
	*buf = msg
	sigs := matrix.Lookup(e.JSON, "signatures")
	for _, server := range e.Signers() {
		own := matrix.Lookup(sigs, server)
		good := 0
		for i := 1; len(own) > 0 && own[0] == '{'; {
			m, next, ok := matrix.NextMember(own, i)
			if !ok {
				break
			}
			i = next
			id := string(m.Key)
			public, known := keys(server, id)
			if !known {
				continue
			}
			text, _ := stringView(m.Value)
			if err := matrix.VerifyBytes(msg, text, public); err != nil {
				return fmt.Errorf("event %s: server %s, key %s: %w", e.ID, server, id, err)
			}
			good++
		}
		if good == 0 {
			return fmt.Errorf("event %s: %w: no signature of %s by a known key", e.ID, matrix.ErrSignature, server)
		}
	}
	return nil
}
