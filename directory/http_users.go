package directory

import (
	"context"
	"strings"

	"lyceum/matrix"
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

// users finds those whom a user may find and whose id or name has all words of a term.
func (d *Directory) users(ctx context.Context, userID, term string) ([]foundUser, error) {
	out := []foundUser{}
	where, args := likeAll("words", fold(term))
	if len(args) == 0 {
		return out, nil
	}
	args = append(args, usersLooked)
	rows, err := d.Process.DB.Query(ctx, "SELECT user_id, name, avatar FROM search_people WHERE "+where+" ORDER BY user_id LIMIT "+dollar(len(args)), args...)
	if err != nil {
		return nil, err
	}
	defer rows.Close()
	var ids []string
	var all []foundUser
	for rows.Next() {
		var u foundUser
		if err := rows.Scan(&u.UserID, &u.Name, &u.Avatar); err != nil {
			return nil, err
		}
		all, ids = append(all, u), append(ids, u.UserID)
	}
	if err := rows.Err(); err != nil {
		return nil, err
	}
	known, err := d.Rooms.KnownTo(ctx, userID, ids)
	if err != nil {
		return nil, err
	}
	profiles, err := d.Accounts.Profiles(ctx, ids)
	if err != nil {
		return nil, err
	}
	for _, u := range all {
		if !known[u.UserID] || u.UserID == userID {
			continue
		}
		if p, ok := profiles[u.UserID]; ok {
			u.Name, u.Avatar = p.DisplayName, p.AvatarURL
		}
		out = append(out, u)
	}
	return out, nil
}

const maxWords = 16

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
	return list[:min(len(list), maxWords)]
}
