package rooms

import (
	"context"
	"fmt"
	"slices"
	"strings"

	"lyceum/matrix"
	"lyceum/matrix/event"
	"lyceum/platform/stream"
)

// stay is a user's place in a room at the two ends of a time.
type stay struct{ before, after bool }

// UsersParted gives the users, sorted, who were members of a room together with userID at one token of /sync
// and are of none at a later one (client-server API, GET /keys/changes, "left"). It costs at most three
// statements, over the membership events of the user's rooms since the first token. Errors: M_INVALID_PARAM.
func (r *Rooms) UsersParted(ctx context.Context, userID, from, to string) ([]string, error) {
	after, err := r.positionsOf(from)
	if err != nil {
		return nil, err
	}
	upto, err := r.positionsOf(to)
	if err != nil {
		return nil, err
	}
	list, err := r.Memberships(ctx, userID)
	if err != nil {
		return nil, err
	}
	moves, err := r.moves(ctx, list, after, upto)
	if err != nil {
		return nil, err
	}
	var shared, ended []string // rooms of the user at the later token; rooms of the user at the first one only
	for _, m := range list {
		switch s := moves.of(m); {
		case s.after:
			shared = append(shared, m.RoomID)
		case s.before:
			ended = append(ended, m.RoomID)
		}
	}
	gone := map[string]bool{}
	for _, m := range list {
		if !moves.of(m).before {
			continue
		}
		for other, s := range moves[m.RoomID] {
			if s.before && other != userID {
				gone[other] = true
			}
		}
	}
	stayed, err := r.memberships(ctx, "room_id = ANY($1) AND membership = $2", ended, event.MembershipJoin)
	if err != nil {
		return nil, err
	}
	for _, m := range stayed {
		if _, moved := moves[m.RoomID][m.UserID]; !moved && m.UserID != userID {
			gone[m.UserID] = true
		}
	}
	return r.withoutMates(ctx, gone, shared, moves)
}

// withoutMates leaves those users who are members of none of some rooms at the later token.
func (r *Rooms) withoutMates(ctx context.Context, users map[string]bool, shared []string, moves moves) ([]string, error) {
	out := make([]string, 0, len(users))
	for id := range users {
		out = append(out, id)
	}
	if len(out) == 0 || len(shared) == 0 {
		slices.Sort(out)
		return out, nil
	}
	now, err := r.memberships(ctx, "user_id = ANY($1) AND room_id = ANY($2)", out, shared)
	if err != nil {
		return nil, err
	}
	for _, m := range now {
		if moves.of(m).after {
			delete(users, m.UserID)
		}
	}
	out = slices.DeleteFunc(out, func(id string) bool { return !users[id] })
	slices.Sort(out)
	return out, nil
}

// positionsOf reads the positions of the events stream from a token of /sync.
func (r *Rooms) positionsOf(token string) ([]int64, error) {
	epoch, positions, err := stream.DecodeToken(token, TokenSize)
	if err != nil || epoch != r.Process.LogEpoch() {
		return nil, matrix.InvalidParam("Expected a token that /sync of this server gave out").With(err)
	}
	return positions[:Shards], nil
}

// moves are the users of rooms with membership events after the first token, by room and user.
type moves map[string]map[string]stay

// of gives a user's place: where no event says more, it is what it is now.
func (m moves) of(now Membership) stay {
	if s, moved := m[now.RoomID][now.UserID]; moved {
		return s
	}
	is := now.Membership == event.MembershipJoin
	return stay{is, is}
}

// moves reads the membership events of rooms after some positions. What happened after upto tells what was before.
func (r *Rooms) moves(ctx context.Context, list []Membership, after, upto []int64) (moves, error) {
	var inShard [Shards][]string
	for _, m := range list {
		shard := r.stream.Shard(m.RoomID)
		inShard[shard] = append(inShard[shard], m.RoomID)
	}
	var where []string
	args := []any{event.TypeMember}
	for shard, ids := range inShard {
		if len(ids) > 0 {
			where = append(where, fmt.Sprintf("(e.room_id = ANY($%d) AND e.pos > $%d)", len(args)+1, len(args)+2))
			args = append(args, ids, after[shard])
		}
	}
	if len(where) == 0 {
		return nil, nil
	}
	events, err := r.query(ctx, r.Process.DB, "e.type = $1 AND e.state_key IS NOT NULL AND ("+strings.Join(where, " OR ")+") ORDER BY e.room_id, e.pos", args...)
	if err != nil {
		return nil, err
	}
	out := moves{}
	for _, e := range events {
		room := out[e.RoomID]
		if room == nil {
			room = map[string]stay{}
			out[e.RoomID] = room
		}
		before, _ := matrix.LookupString(e.PrevContent, "membership")
		s, seen := room[*e.StateKey]
		if !seen {
			s.before = before == event.MembershipJoin
			s.after = s.before
		}
		if e.Pos <= upto[e.Shard] {
			s.after = e.Membership() == event.MembershipJoin
		}
		room[*e.StateKey] = s
	}
	return out, nil
}
