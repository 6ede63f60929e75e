package receipts

import (
	"cmp"
	"context"
	"embed"
	"slices"
	"time"

	"lyceum/accounts"
	"lyceum/matrix"
	"lyceum/platform/db"
	"lyceum/platform/obs"
	"lyceum/platform/owned"
	"lyceum/platform/role"
	"lyceum/platform/stream"
	"lyceum/rooms"
)

//go:embed migrations/*.sql
var migrations embed.FS

// Migrations are the schema of the package.
func Migrations() db.Migrations { return db.Migrations{Domain: "receipts", Files: migrations} }

// Shards is the number of shards of the stream; it never changes in the life of a database.
const Shards = 8

// The types of receipts.
const (
	TypeRead      = "m.read"
	TypePrivate   = "m.read.private" // never shown to others
	TypeFullyRead = "m.fully_read"   // account data of the room, no receipt
)

// MainThread is the thread id of receipts for events outside threads.
const MainThread = "main"

// Receipt says how far a user has read.
type Receipt struct {
	RoomID   string `json:"room"`
	UserID   string `json:"user"`
	Type     string `json:"type"`
	ThreadID string `json:"thread,omitempty"` // "" for unthreaded, MainThread, or the event id of a thread's root
	EventID  string `json:"event"`
	TS       int64  `json:"ts"` // ms, when the server took it
	EventPos int64  `json:"at"` // position of the event in the events stream
	Pos      int64  `json:"-"`  // position of the receipt in the shard of its room
}

// Deps is what the package is given.
type Deps struct {
	Process  *role.Process
	Accounts *accounts.Accounts
	Rooms    *rooms.Rooms
	Now      func() time.Time // the clock; nil is obs.Now
}

// ownerMemory is the memory of an owner for positions of receipts, in bytes.
const ownerMemory = 64 << 20

// Receipts is the package's one object.
type Receipts struct {
	Deps
	stream *stream.Stream
	owned  *owned.Owned[receiptPositions]
	set    func(ctx context.Context, roomID string, list []Receipt) (struct{}, error)
}

// New opens the stream.
func New(d Deps) *Receipts {
	if d.Now == nil {
		d.Now = obs.Now
	}
	r := &Receipts{Deps: d}
	r.owned = owned.OpenStream(d.Process.Streams, receiptStream, store{}, owned.Spec[receiptPositions]{
		Budget: ownerMemory, Bytes: func(m *receiptPositions) int64 { return m.bytes() },
		Load: func(context.Context, string) (*receiptPositions, error) { return &receiptPositions{}, nil },
	})
	r.stream = r.owned.Stream()
	r.set = role.Owned(d.Process, r.stream, "receipts.set", r.setAtOwner)
	return r
}

// Stream is the stream of receipts; FromRow reads its rows.
func (r *Receipts) Stream() *stream.Stream { return r.stream }

// FromRow gives the receipt of a row, wherever it was written. It is shared: nobody changes it.
func FromRow(row stream.Row) (*Receipt, error) {
	return stream.ValueOf(row, func(rc *Receipt) { rc.Pos = row.Pos })
}

// ReadRow returns how far a user has read, according to a row; not ok for damaged rows. It is for consumers that need no whole Receipt.
func (r *Receipts) ReadRow(row stream.Row) (roomID, userID, threadID string, eventPos int64, ok bool) {
	rc, err := FromRow(row)
	if err != nil {
		return "", "", "", 0, false
	}
	return rc.RoomID, rc.UserID, rc.ThreadID, rc.EventPos, true
}

// Send stores receipts of a user for events of one room. Those that would go backwards change nothing.
// Errors are *matrix.Error.
func (r *Receipts) Send(ctx context.Context, roomID string, list ...Receipt) error {
	if err := r.locateAll(ctx, roomID, list); err != nil {
		return err
	}
	_, err := r.set(ctx, roomID, list)
	return err
}

// locateAll completes receipts with room, time and position, or returns why one is refused.
func (r *Receipts) locateAll(ctx context.Context, roomID string, list []Receipt) error {
	for i := range list {
		list[i].RoomID, list[i].TS = roomID, r.Now().UnixMilli()
		if err := r.locate(ctx, &list[i]); err != nil {
			return err
		}
	}
	return nil
}

// locate finds the event of a receipt and checks that it is in the room and in the thread.
func (r *Receipts) locate(ctx context.Context, rc *Receipt) error {
	if !matrix.ValidEventID(rc.EventID) {
		return matrix.InvalidParam("Expected an event id such as $opaque")
	}
	e, err := r.Rooms.Event(ctx, rc.EventID)
	if err != nil {
		return err
	}
	if e == nil || e.RoomID != rc.RoomID {
		return matrix.NotFound("The event is not in this room")
	}
	rc.EventPos = e.Pos
	if rc.ThreadID == "" {
		return nil
	}
	in, err := r.inThread(ctx, e, rc.ThreadID)
	if err != nil {
		return err
	}
	if !in {
		return matrix.InvalidParam("The event is not related to the thread of thread_id")
	}
	return nil
}

// inThread reports whether a receipt for e may name a thread: e is in it, is its root, or is related to the root. MainThread holds
// what is in no thread.
func (r *Receipts) inThread(ctx context.Context, e *rooms.Event, thread string) (bool, error) {
	if e.ID == thread {
		return true, nil
	}
	root, through, err := r.Rooms.ThreadRoot(ctx, e)
	if err != nil || slices.Contains(through, thread) {
		return err == nil, err
	}
	return cmp.Or(root, MainThread) == thread, nil
}

// MarkFullyRead moves the read marker of a room. It does not move backwards, also among requests at the same time.
func (r *Receipts) MarkFullyRead(ctx context.Context, userID, roomID, eventID string) error {
	rc := Receipt{RoomID: roomID, EventID: eventID}
	if err := r.locate(ctx, &rc); err != nil {
		return err
	}
	raw, err := r.Accounts.AccountData(ctx, userID, roomID, TypeFullyRead)
	if err != nil {
		return err
	}
	content := append(matrix.AppendString([]byte(`{"event_id":`), eventID), '}')
	for before := cmp.Or(string(raw), "{}"); before != ""; {
		if id, _ := matrix.LookupString([]byte(before), "event_id"); id != "" {
			e, err := r.Rooms.Event(ctx, id)
			if err != nil {
				return err
			}
			if e != nil && e.RoomID == roomID && e.Pos >= rc.EventPos {
				return nil
			}
		}
		before, err = r.Accounts.SwapAccountData(ctx, userID, accounts.DataSwap{
			RoomID: roomID, Type: TypeFullyRead, Old: before, New: content,
		})
		if err != nil {
			return err
		}
	}
	return nil
}
