package accounts

import (
	"context"
	"encoding/json"
	"strconv"
	"strings"

	"lyceum/platform/db"
	"lyceum/platform/role"
)

// Find lists users of this server whose id and display name together contain all the words, which are in lower case. It returns at
// most limit ids in their order, from behind after. Deactivated users are left out.
func (a *Accounts) Find(ctx context.Context, words []string, after string, limit int) ([]string, error) {
	if len(words) == 0 {
		return nil, nil
	}
	var where string
	var args []any
	for _, word := range words {
		args = append(args, "%"+escapeLike.Replace(word)+"%")
		where += " AND u.user_id || ' ' || COALESCE(n.words, '') LIKE $" + strconv.Itoa(len(args)) + ` ESCAPE '\'`
	}
	from, most := "$"+strconv.Itoa(len(args)+1), "$"+strconv.Itoa(len(args)+2)
	args = append(args, after, limit)
	return db.Texts(a.db.Query(ctx, `SELECT u.user_id FROM users u
		LEFT JOIN profile_fields p ON p.user_id = u.user_id AND p.name = 'displayname'
		LEFT JOIN profile_names n ON n.user_id = u.user_id AND n.value = p.value
		WHERE u.deactivated_ms = 0`+where+` AND u.user_id > `+from+` ORDER BY u.user_id LIMIT `+most, args...))
}

var escapeLike = strings.NewReplacer(`\`, `\\`, `%`, `\%`, `_`, `\_`)

// nameRow returns a row of profile_names for a display name in JSON.
func nameRow(userID, value string) []any {
	var name string
	_ = json.Unmarshal([]byte(value), &name) // validated when it was set; otherwise no name finds it
	return []any{userID, value, strings.ToLower(strings.ReplaceAll(name, "\x00", ""))}
}

const insertNames = `INSERT INTO profile_names (user_id, value, words) VALUES ?
	ON CONFLICT (user_id) DO UPDATE SET value = excluded.value, words = excluded.words`

// indexNames adds the missing rows of profile_names, for display names that an earlier version stored.
func (a *Accounts) indexNames(ctx context.Context, job *role.Job) error {
	const atOnce = 500
	for {
		rows, err := db.List(func(row db.Row) ([]any, error) {
			var userID, value string
			err := row.Scan(&userID, &value)
			return nameRow(userID, value), err
		})(a.db.Query(ctx, `SELECT p.user_id, p.value FROM profile_fields p LEFT JOIN profile_names n ON n.user_id = p.user_id
			AND n.value = p.value
			WHERE p.name = 'displayname' AND n.user_id IS NULL LIMIT $1`, atOnce))
		if err != nil || len(rows) == 0 {
			return err
		}
		err = job.Tx(ctx, func(tx *db.Tx) error { return tx.Bulk(ctx, insertNames, rows) })
		if err != nil || len(rows) < atOnce {
			return err
		}
	}
}
