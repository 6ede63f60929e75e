package rooms

import (
	"context"
	"encoding/json"

	"lyceum/matrix"
	"lyceum/matrix/event"
	"lyceum/platform/db"
	"lyceum/rooms/state"
)

// Summary is what others than members may see of a room (Client-Server API, "RoomSummary").
type Summary struct {
	RoomID         string   `json:"room_id"`
	Name           string   `json:"name,omitempty"`
	Topic          string   `json:"topic,omitempty"`
	CanonicalAlias string   `json:"canonical_alias,omitempty"`
	AvatarURL      string   `json:"avatar_url,omitempty"`
	Joined         int      `json:"num_joined_members"`
	WorldReadable  bool     `json:"world_readable"`
	GuestCanJoin   bool     `json:"guest_can_join"`
	JoinRule       string   `json:"join_rule"`
	RoomType       string   `json:"room_type,omitempty"`
	AllowedRooms   []string `json:"allowed_room_ids,omitempty"`
	Encryption     string   `json:"encryption,omitempty"`
	Version        string   `json:"room_version,omitempty"`
}

var summaryKeys = []state.Key{
	{Type: event.TypeCreate},
	{Type: event.TypeName},
	{Type: event.TypeTopic},
	{Type: event.TypeCanonicalAlias},
	{Type: event.TypeAvatar},
	{Type: event.TypeHistoryVisibility},
	{Type: event.TypeGuestAccess},
	{Type: event.TypeJoinRules},
	{Type: event.TypeEncryption},
}

// summaryText is how many bytes a text of a summary has at most; one that is longer is left out. An answer holds the summaries of many
// rooms of strangers.
const summaryText = 2 << 10

// SummaryAt reads the part of a summary that a state holds: all but RoomID and Joined.
func (r *Rooms) SummaryAt(ctx context.Context, root state.ID) (Summary, error) {
	found, err := r.StateEvents(ctx, root, summaryKeys...)
	if err != nil {
		return Summary{}, err
	}
	text := func(typ, member string) string {
		if e := found[state.Key{Type: typ}]; e != nil {
			if s, _ := e.ContentString(member); len(s) <= summaryText {
				return s
			}
		}
		return ""
	}
	s := Summary{
		Name: text(event.TypeName, "name"), Topic: text(event.TypeTopic, "topic"),
		CanonicalAlias: text(event.TypeCanonicalAlias, "alias"), AvatarURL: text(event.TypeAvatar, "url"),
		WorldReadable: text(event.TypeHistoryVisibility, "history_visibility") == worldReadable,
		GuestCanJoin:  text(event.TypeGuestAccess, "guest_access") == "can_join",
		JoinRule:      text(event.TypeJoinRules, "join_rule"), RoomType: text(event.TypeCreate, "type"),
		Encryption: text(event.TypeEncryption, "algorithm"),
	}
	if s.JoinRule == "" {
		s.JoinRule = "invite"
	}
	if e := found[state.Key{Type: event.TypeCreate}]; e != nil {
		s.Version = e.Version().ID
	}
	if e := found[state.Key{Type: event.TypeJoinRules}]; e != nil {
		s.AllowedRooms = allowedRooms(e)
	}
	return s, nil
}

// allowedRooms lists the rooms whose members a restricted room lets in.
func allowedRooms(rule *Event) []string {
	if kind, _ := rule.ContentString("join_rule"); kind != "restricted" && kind != "knock_restricted" {
		return nil
	}
	var content struct {
		Allow []struct {
			Type   string `json:"type"`
			RoomID string `json:"room_id"`
		} `json:"allow"`
	}
	_ = json.Unmarshal(rule.Content, &content) // a rule that can not be read allows nobody
	var out []string
	for _, a := range content.Allow {
		if a.Type == "m.room_membership" && matrix.ValidRoomID(a.RoomID) {
			out = append(out, a.RoomID)
		}
	}
	return out
}

// SummaryFor gives the summary of a room to a user ("" for nobody in particular), with the user's
// membership, "" when there is none. not ok: there is no such room, or the user may not know of it
// (Client-Server API, "Retrieve a portion of a space tree" lists who may).
func (r *Rooms) SummaryFor(ctx context.Context, userID, roomID string) (s Summary, membership string, ok bool, err error) {
	h, ok, err := r.Head(ctx, roomID)
	if err != nil || !ok {
		return s, "", false, err
	}
	if s, err = r.SummaryAt(ctx, h.Root); err != nil {
		return s, "", false, err
	}
	s.RoomID = roomID
	const countJoined = "SELECT COUNT(*) FROM memberships WHERE room_id = $1 AND membership = 'join'"
	if err := r.Process.DB.QueryRow(ctx, countJoined, roomID).Scan(&s.Joined); err != nil {
		return s, "", false, err
	}
	if userID != "" {
		m, err := r.Membership(ctx, userID, roomID)
		if err != nil {
			return s, "", false, err
		}
		membership = m.Membership
	}
	switch membership {
	case event.MembershipJoin, event.MembershipInvite:
		return s, membership, true, nil
	case event.MembershipBan:
		return s, membership, s.WorldReadable, nil
	}
	switch {
	case s.WorldReadable, s.JoinRule == "public", s.JoinRule == "knock", s.JoinRule == "knock_restricted":
		return s, membership, true, nil
	case userID == "":
		return s, membership, false, nil
	}
	for _, room := range s.AllowedRooms {
		m, err := r.Membership(ctx, userID, room)
		if err != nil {
			return s, "", false, err
		}
		if m.Membership == event.MembershipJoin {
			return s, membership, true, nil
		}
	}
	return s, membership, false, nil
}

const heroesShown = 5

// RoomSummary gives the summary that /sync has of a room: up to five other members by the order of their
// coming, or else of those who were there, and the numbers of those joined and invited. heroes is nil for
// a room with a name or an alias.
func (r *Rooms) RoomSummary(ctx context.Context, h Head, userID string) (heroes []string, joined, invited int, err error) {
	members, err := db.Map[string, int](r.Process.DB.Query(ctx, `SELECT membership, COUNT(*) FROM memberships
		WHERE room_id = $1 AND membership IN ('join', 'invite') GROUP BY membership`, h.RoomID))
	if err != nil {
		return nil, 0, 0, err
	}
	joined, invited = members[event.MembershipJoin], members[event.MembershipInvite]
	name, alias := state.Key{Type: event.TypeName}, state.Key{Type: event.TypeCanonicalAlias}
	found, err := r.StateEvents(ctx, h.Root, name, alias)
	if err != nil {
		return nil, 0, 0, err
	}
	for k, member := range map[state.Key]string{name: "name", alias: "alias"} {
		if e := found[k]; e != nil {
			if s, _ := e.ContentString(member); s != "" {
				return nil, joined, invited, nil
			}
		}
	}
	for _, kinds := range [][]string{{event.MembershipJoin, event.MembershipInvite}, {event.MembershipLeave, event.MembershipBan}} {
		heroes, err = db.Texts(r.Process.DB.Query(ctx, `SELECT user_id FROM memberships
			WHERE room_id = $1 AND membership = ANY($2) AND user_id <> $3 ORDER BY pos LIMIT $4`,
			h.RoomID, kinds, userID, heroesShown))
		if err != nil || len(heroes) > 0 {
			break
		}
	}
	return heroes, joined, invited, err
}
