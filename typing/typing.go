package typing

import (
	"context"
	"embed"
	"time"

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
func Migrations() db.Migrations { return db.Migrations{Domain: "typing", Files: migrations} }

// Shards is the number of shards of the stream; it never changes in the life of a database.
const Shards = 8

// State is who is typing in a room.
type State struct {
	RoomID string
	Users  []string // sorted; nobody changes it
	Pos    int64    // in the shard of the room
}

// Deps is what the package is given.
type Deps struct {
	Process *role.Process
	Rooms   *rooms.Rooms
	Now     func() time.Time // the clock; nil is obs.Now
}

// ownerMemory is the memory of an owner for rooms in which somebody types, in bytes.
const ownerMemory = 32 << 20

// maxEnded is how many ended memberships may wait until the owner of the typing is told. Beyond it, the typing ends by its time-out.
const maxEnded = 10_000

// Typing is the package's one object.
type Typing struct {
	Deps
	stream *stream.Stream
	owned  *owned.Owned[roomTyping]
	set    func(ctx context.Context, roomID string, req setRequest) (struct{}, error)
	ended  chan endedMembership // whose membership ended
}

// New opens the stream and the part that ends what was not renewed.
func New(d Deps) *Typing {
	if d.Now == nil {
		d.Now = obs.Now
	}
	t := &Typing{Deps: d, ended: make(chan endedMembership, maxEnded)}
	t.owned = owned.OpenStream(d.Process.Streams, typingStream, store{}, owned.Spec[roomTyping]{
		Load: t.load, Active: t.active, Budget: ownerMemory,
		Bytes:  func(s *roomTyping) int64 { return 120 * int64(len(s.typists)) },
		Pinned: func(s *roomTyping) bool { return len(s.typists) > 0 },
	})
	t.stream = t.owned.Stream()
	d.Rooms.Stream().Subscribe(t.queueEnded, "events")
	t.set = role.Owned(d.Process, t.stream, "typing.set", t.setAtOwner)
	d.Process.Go("typing.expire", t.expire)
	d.Process.Go("typing.left", t.stopEnded)
	return t
}

// Stream is the stream of typing; FromRow reads its rows.
func (t *Typing) Stream() *stream.Stream { return t.stream }

// record is what a row holds: the users of a room sorted by id.
type record struct {
	RoomID string   `json:"room"`
	Users  []typist `json:"users"`
	pos    int64
}

type typist struct {
	ID     string `json:"id"`
	Until  int64  `json:"until"`  // ms since 1970, by the owner's clock
	Member int64  `json:"member"` // position of the membership; one that ends before it does not end the typing
}

// at is the state at a time: those whose time is over are left out.
func (r *record) at(now time.Time) *State {
	s := &State{RoomID: r.RoomID, Pos: r.pos}
	for _, u := range r.Users {
		if u.Until > now.UnixMilli() {
			s.Users = append(s.Users, u.ID)
		}
	}
	return s
}

// FromRow gives the state of a row, wherever it was written. Whose time is over is left out.
func FromRow(row stream.Row) (*State, error) {
	r, err := stream.ValueOf(row, func(r *record) { r.pos = row.Pos })
	if err != nil {
		return nil, err
	}
	return r.at(obs.Now()), nil
}

// Current reads who is typing now; rooms in which nobody is are left out.
func (t *Typing) Current(ctx context.Context, roomIDs []string) (map[string]*State, error) {
	list, err := query(ctx, t.Process.DB, `room_id = ANY($1) AND users <> '[]'`, roomIDs)
	if err != nil {
		return nil, err
	}
	out := map[string]*State{}
	for _, r := range list {
		if s := r.at(t.Now()); len(s.Users) > 0 {
			out[s.RoomID] = s
		}
	}
	return out, nil
}

// Set says that a member types for some time, or with 0 that the member stopped. M_FORBIDDEN when the membership has ended.
func (t *Typing) Set(ctx context.Context, m rooms.Membership, timeout time.Duration) error {
	_, err := t.set(ctx, m.RoomID, setRequest{UserID: m.UserID, Ms: min(timeout, maxTimeout).Milliseconds(), Member: m.Pos})
	return err
}
