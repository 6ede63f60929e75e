package rooms

import (
	"encoding/binary"
	"encoding/json"
	"errors"
	"strings"
	"sync/atomic"

	"lyceum/matrix"
	"lyceum/matrix/event"
	"lyceum/platform/stream"
	"lyceum/rooms/state"
)

// Event is an event that is stored or about to be, with what the server knows of it.
type Event struct {
	*event.Event
	Shard  int
	Pos    int64
	Device string // the sender's device, "" for events of other servers and of this server itself
	Txn    string // the transaction id that the device gave
	Root   state.ID
	// Replaces is the state event before this one for the same key; PrevContent, PrevSender and PrevPos are of it.
	Replaces    string
	PrevContent json.RawMessage
	PrevSender  string
	PrevPos     int64  // 0 when the event did not come from the database
	RedactedBy  string // the redaction, when the text is the redacted one

	client         atomic.Pointer[[]byte]       // the shared text that clients get
	nodes          atomic.Pointer[[]state.Node] // new nodes of the state tree, on their way to the database
	redact         *Event                       // what this redaction redacts, already redacted
	ticket         *stream.Ticket               // of the write, in the process that made the event
	created        *createRow
	profileVersion int64  // see Send
	requireActive  bool   // see Send
	moveAliasesTo  string // see Send
	prevQueued     bool   // the event before it was queued by this process and with it: see refuseOrphans
}

type createRow struct {
	version, creator, visibility, alias string
	ms                                  int64
	upgrade                             *pendingUpgrade // nil for none
}

// PrevMembership returns the membership that an m.room.member event replaced; "" when it replaced none.
func (e *Event) PrevMembership() string {
	membership, _ := matrix.LookupString(e.PrevContent, "membership")
	return membership
}

// serverTxnPrefix tells a transaction id that the server made for a request without one.
const serverTxnPrefix = "~"

// ClientTxn is the transaction id that the sender's own device is told, or "".
func (e *Event) ClientTxn(device string) string {
	if device == "" || e.Device != device || e.Txn == "" || e.Txn[:1] == serverTxnPrefix {
		return ""
	}
	if _, txn, scoped := strings.Cut(e.Txn, txnScopeEnd); scoped {
		return txn
	}
	return e.Txn
}

// txnScopeEnd stands between the endpoint that a transaction id was used with and the id: the same id at two
// endpoints is two transactions (Client-Server API, "Transaction identifiers").
const txnScopeEnd = "\n"

func scopedTxn(scope, txn string) string { return scope + txnScopeEnd + txn }

// ClientJSON is the event as clients other than its sender's device get it in /sync: without room_id, with
// what is known of it in unsigned. It is encoded once and shared by all who receive it: nobody may
// change it.
func (e *Event) ClientJSON() []byte {
	if p := e.client.Load(); p != nil {
		return *p
	}
	encodings.Add(1)
	b := event.ClientJSON(make([]byte, 0, e.text()+256), e.Event, e.unsigned(nil, "", "join"), false)
	e.client.Store(&b)
	return b
}

var encodings atomic.Int64

// Encodings counts how often this process has made the text of an event for clients, for tests: a text that is copied to one more
// receiver does not count.
func Encodings() int64 { return encodings.Load() }

// AppendClient appends the event as the reader that v describes gets it.
func (e *Event) AppendClient(dst []byte, v ClientOptions) []byte {
	if v.Erased {
		e = e.erased()
	}
	txn := e.ClientTxn(v.Device)
	if txn == "" && !v.Erased && !v.PrevHidden && len(v.Extra) == 0 && !v.RoomID && v.Membership == "join" {
		return append(dst, e.ClientJSON()...)
	}
	encodings.Add(1)
	return event.ClientJSON(dst, e.Event, e.unsignedFor(v, txn), v.RoomID)
}

// ClientOptions says for whom an event is written.
type ClientOptions struct {
	Device     string
	Membership string   // of the reader at the event
	RoomID     bool     // with room_id, as everywhere but in /sync
	Erased     bool     // redacted, as the sender was erased
	PrevHidden bool     // without what it replaced, as the reader may not see that or its sender was erased
	Extra      [][]byte // more members of unsigned, as `"key":value` texts
}

func (e *Event) unsignedFor(v ClientOptions, txn string) []byte {
	if v.PrevHidden {
		e = e.withoutPrevious()
	}
	return e.unsigned(v.Extra, txn, v.Membership)
}

func (e *Event) unsigned(extra [][]byte, txn, membership string) []byte {
	b := make([]byte, 0, 128+len(e.PrevContent))
	b = append(b, '{')
	member := func(key string) {
		if len(b) > 1 {
			b = append(b, ',')
		}
		b = append(b, '"')
		b = append(b, key...)
		b = append(b, '"', ':')
	}
	if membership != "" {
		member("membership")
		b = matrix.AppendString(b, membership)
	}
	if e.Replaces != "" {
		member("replaces_state")
		b = matrix.AppendString(b, e.Replaces)
		if e.PrevContent != nil {
			member("prev_content")
			b = append(b, e.PrevContent...)
			member("prev_sender")
			b = matrix.AppendString(b, e.PrevSender)
		}
	}
	if txn != "" {
		member("transaction_id")
		b = matrix.AppendString(b, txn)
	}
	for _, x := range extra {
		if len(b) > 1 {
			b = append(b, ',')
		}
		b = append(b, x...)
	}
	return append(b, '}')
}

// encode writes the event for the bus: its time, its strings with their lengths, those of RowHeader first, then the root.
func (e *Event) encode() []byte {
	b := make([]byte, 0, len(e.JSON)+len(e.PrevContent)+240)
	version := e.Version()
	b = binary.AppendVarint(b, e.OriginServerTS)
	for _, s := range [...]string{
		e.Redacts, e.Sender, version.ID, e.ID, e.Device, e.Txn, e.Replaces, string(e.PrevContent), e.PrevSender,
		e.RedactedBy,
	} {
		b = binary.AppendUvarint(b, uint64(len(s)))
		b = append(b, s...)
	}
	b = append(b, e.Root[:]...)
	return append(b, e.JSON...)
}

var errEventRow = errors.New("expected an event, found a damaged row")

// Decode reads an event from a row's Data.
func Decode(row stream.Row) (*Event, error) {
	_, b, ok := decodeRowHeader(row.Data)
	if !ok {
		return nil, errEventRow
	}
	var fields [8]string
	for i := range fields {
		var field []byte
		if field, b, ok = decodeField(b); !ok {
			return nil, errEventRow
		}
		fields[i] = string(field)
	}
	v, ok := event.VersionByID(fields[0])
	if !ok || len(b) < 16 {
		return nil, errEventRow
	}
	pdu, err := event.ParseTrusted(v, b[16:], fields[1])
	if err != nil {
		return nil, err
	}
	e := &Event{
		Event: pdu, Shard: row.Shard, Pos: row.Pos, Root: state.IDFrom(b[:16]),
		Device: fields[2], Txn: fields[3], Replaces: fields[4], PrevSender: fields[6], RedactedBy: fields[7],
	}
	if fields[5] != "" {
		e.PrevContent = json.RawMessage(fields[5])
	}
	return e, nil
}

func decodeField(b []byte) (field, rest []byte, ok bool) {
	n, k := binary.Uvarint(b)
	if k <= 0 || n > uint64(len(b)-k) {
		return nil, nil, false
	}
	return b[k : k+int(n)], b[k+int(n):], true
}

// RowHeader is what a row of the stream tells without its event being read. Nobody changes it.
type RowHeader struct {
	OriginServerTS int64  // ms since 1970
	Redacts        []byte // the id of the event that this one redacts
	Sender         []byte
}

func decodeRowHeader(data []byte) (g RowHeader, rest []byte, ok bool) {
	ts, k := binary.Varint(data)
	if k <= 0 {
		return g, nil, false
	}
	g.OriginServerTS = ts
	if g.Redacts, rest, ok = decodeField(data[k:]); ok {
		g.Sender, rest, ok = decodeField(rest)
	}
	return g, rest, ok
}

// RowHeaderOf gives what a row tells at a glance; not ok when it is damaged. It allocates nothing for rows that came over
// the bus.
func RowHeaderOf(row stream.Row) (g RowHeader, ok bool) {
	if e, ok := row.Value.(*Event); ok {
		return RowHeader{e.OriginServerTS, []byte(e.Redacts), []byte(e.Sender)}, true
	}
	g, _, ok = decodeRowHeader(row.Data)
	return g, ok
}

// FromRow gives the event of a row of the stream, wherever it was written.
func (r *Rooms) FromRow(row stream.Row) (*Event, error) { return r.FromRowCached(&row) }

// FromRowCached is FromRow for subscriptions: the event stays in the row, so that the subscriptions after this one need not decode it
// again.
func (r *Rooms) FromRowCached(row *stream.Row) (*Event, error) {
	if e, ok := row.Value.(*Event); ok {
		return e, nil
	}
	e, err := Decode(*row)
	if err == nil {
		row.Value = e
	}
	return e, err
}

// newNodes are those that the event brings, until it is stored.
func (e *Event) newNodes() []state.Node {
	if nodes := e.nodes.Load(); nodes != nil {
		return *nodes
	}
	return nil
}
