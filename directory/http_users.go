package directory

import (
	"context"
	"slices"
	"strings"

	"lyceum/matrix"
	"lyceum/platform/db"
	"lyceum/platform/web"
)

const (
	usersDefault = 10
	usersMax     = 50
	usersPage    = 1000   // matches that are looked at together
	usersLooked  = 20_000 // matches that are looked at, for those whom the user may find
)

type foundUser struct {
	UserID string `json:"user_id"`
	Name   string `json:"display_name,omitempty"`
	Avatar string `json:"avatar_url,omitempty"`
}

func (d *Directory) postUserSearch(r *web.Request, b *struct {
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
	users, limited, err := d.users(r.Context(), r.UserID(), b.Term, limit)
	if err != nil {
		return nil, err
	}
	return map[string]any{"results": users, "limited": limited}, nil
}

// users finds users that a user may find and whose id or profile name contains all words of a term, at most limit. limited: there may be
// more. Names in single rooms are not searched, since the user may not see these rooms.
func (d *Directory) users(ctx context.Context, userID, term string, limit int) (out []foundUser, limited bool, err error) {
	out = []foundUser{}
	terms := words(lowerCase(term))
	if len(terms) == 0 {
		return out, false, nil
	}
	open, err := d.meetingRooms(ctx, userID)
	if err != nil {
		return out, false, err
	}
	ids, err := d.ownMatch(ctx, userID, term)
	if err != nil {
		return nil, false, err
	}
	for after, looked := "", 0; len(ids) <= limit; {
		if looked >= usersLooked {
			limited = true
			break
		}
		page, err := d.Accounts.Find(ctx, terms, after, usersPage)
		if err != nil {
			return nil, false, err
		}
		last := len(page) < usersPage
		if !last {
			after, looked = page[len(page)-1], looked+len(page)
		}
		known, err := d.findable(ctx, userID, open, page)
		if err != nil {
			return nil, false, err
		}
		if ids = append(ids, known...); last {
			break
		}
	}
	if len(ids) > limit {
		ids, limited = ids[:limit], true
	}
	profiles, err := d.Accounts.Profiles(ctx, ids)
	if err != nil {
		return nil, false, err
	}
	for _, id := range ids {
		out = append(out, foundUser{id, profiles[id].DisplayName, profiles[id].AvatarURL})
	}
	return out, limited, nil
}

// ownMatch returns the asking user if the term is the whole id, its local part or the whole name. For other terms the asking user is left
// out, as other servers always do.
func (d *Directory) ownMatch(ctx context.Context, userID, term string) ([]string, error) {
	profiles, err := d.Accounts.Profiles(ctx, []string{userID})
	if err != nil {
		return nil, err
	}
	term = strings.Join(words(lowerCase(term)), " ")
	if term == userID || term == matrix.LocalpartOf(userID) || term == strings.Join(words(lowerCase(profiles[userID].DisplayName)), " ") {
		return []string{userID}, nil
	}
	return nil, nil
}

// findable returns the users of page that userID may find, without userID, by id.
func (d *Directory) findable(ctx context.Context, userID string, open, page []string) ([]string, error) {
	others := slices.DeleteFunc(page, func(id string) bool { return id == userID })
	switch {
	case d.config.SearchAllUsers:
		return others, nil
	case len(open) == 0:
		return nil, nil
	}
	known, err := d.Rooms.MembersOfAny(ctx, open, others)
	slices.Sort(known)
	return known, err
}

// meetingRooms are the rooms whose members a user may find: the user's own rooms, and rooms that anybody may join or read.
func (d *Directory) meetingRooms(ctx context.Context, userID string) ([]string, error) {
	joined, err := d.Rooms.JoinedRooms(ctx, []string{userID})
	if err != nil {
		return nil, err
	}
	open, err := db.Texts(d.Process.DB.Query(ctx, "SELECT room_id FROM search_rooms WHERE joinable OR readable"))
	return append(joined[userID], open...), err
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
			list[i] = strings.ToValidUTF8(word[:maxWord], "") // a text with the word contains its beginning too
		}
	}
	return list
}
