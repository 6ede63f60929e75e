package directory

import (
	"context"
	"maps"
	"slices"
	"strings"

	"lyceum/matrix"
	"lyceum/platform/db"
	"lyceum/platform/web"
)

const (
	usersDefault = 10
	usersMax     = 50
	usersLooked  = 1000 // matches that are looked at
)

type foundUser struct {
	UserID string `json:"user_id"`
	Name   string `json:"display_name,omitempty"`
	Avatar string `json:"avatar_url,omitempty"`
}

func (d *Directory) postUserSearch(q *web.Request, b *struct {
	Term  string `json:"search_term"`
	Limit *int   `json:"limit"`
},
) (any, error) {
	limit := usersDefault
	if b.Limit != nil {
		limit = min(*b.Limit, usersMax)
	}
	if limit < 0 {
		return nil, matrix.InvalidParam("limit: expected 0 or more")
	}
	users, err := d.users(q.Context(), q.UserID(), b.Term)
	if err != nil {
		return nil, err
	}
	limited := len(users) > limit
	return map[string]any{"results": users[:min(limit, len(users))], "limited": limited}, nil
}

// users finds those whom a user may find and whose id or profile name has all words of a term. The names that people
// have in single rooms count for nothing: who asks may not see these rooms.
func (d *Directory) users(ctx context.Context, userID, term string) ([]foundUser, error) {
	out := []foundUser{}
	ids, err := d.Accounts.Find(ctx, words(fold(term)), usersLooked)
	if err != nil || len(ids) == 0 {
		return out, err
	}
	known, err := d.knownTo(ctx, userID, ids)
	if err != nil {
		return nil, err
	}
	ids = slices.DeleteFunc(ids, func(id string) bool { return !known[id] || id == userID })
	profiles, err := d.Accounts.Profiles(ctx, ids)
	if err != nil {
		return nil, err
	}
	for _, id := range ids {
		out = append(out, foundUser{id, profiles[id].DisplayName, profiles[id].AvatarURL})
	}
	return out, nil
}

// knownTo gives those of some users whom a user may find: members of a room that the user is in too, or of
// one that anybody may join or read.
func (d *Directory) knownTo(ctx context.Context, userID string, others []string) (map[string]bool, error) {
	joined, err := d.Rooms.JoinedRooms(ctx, append(slices.Clone(others), userID))
	if err != nil {
		return nil, err
	}
	all := map[string]bool{} // room -> may be counted
	for _, list := range joined {
		for _, id := range list {
			all[id] = false
		}
	}
	counted, err := db.Texts(d.Process.DB.Query(ctx, "SELECT room_id FROM search_rooms WHERE room_id = ANY($1) AND (joinable OR readable)", slices.Collect(maps.Keys(all))))
	if err != nil {
		return nil, err
	}
	for _, id := range append(counted, joined[userID]...) {
		all[id] = true
	}
	known := map[string]bool{}
	for _, user := range others {
		known[user] = slices.ContainsFunc(joined[user], func(id string) bool { return all[id] })
	}
	return known, nil
}

const (
	maxWords = 16
	maxWord  = 1000 // bytes of a word that is looked for: databases bound a pattern
)

// likeAll asks that a column, whose text is in lower case, has all words of a text. No words give no args.
func likeAll(column, text string) (where string, args []any) {
	var parts []string
	for _, word := range words(text) {
		args = append(args, "%"+escapeLike.Replace(word)+"%")
		parts = append(parts, column+" LIKE "+dollar(len(args))+` ESCAPE '\'`)
	}
	return strings.Join(parts, " AND "), args
}

var escapeLike = strings.NewReplacer(`\`, `\\`, `%`, `\%`, `_`, `\_`)

func words(text string) []string {
	list := strings.Fields(text)
	list = list[:min(len(list), maxWords)]
	for i, word := range list {
		if len(word) > maxWord {
			list[i] = strings.ToValidUTF8(word[:maxWord], "") // what holds the word holds its beginning
		}
	}
	return list
}
