package accounts

import (
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/base64"
	"encoding/json"
	"errors"

	"github.com/maypok86/otter/v2"

	"lyceum/matrix"
	"lyceum/platform/db"
)

type filterKey struct{ user, id string }

// filters remembers filters, which never change.
type filters struct {
	cache *otter.Cache[filterKey, json.RawMessage]
}

func newFilters(size int) *filters {
	return &filters{cache: otter.Must(&otter.Options[filterKey, json.RawMessage]{
		MaximumWeight: uint64(size) << 10,
		Weigher:       func(_ filterKey, f json.RawMessage) uint32 { return uint32(256 + len(f)) }, //nolint:gosec // a filter has at most 64 KiB
	})}
}

// syncFilter has the members of a filter that are validated.
type syncFilter struct {
	EventFields []string     `json:"event_fields"`
	EventFormat string       `json:"event_format"`
	Presence    *eventFilter `json:"presence"`
	AccountData *eventFilter `json:"account_data"`
	Room        *struct {
		Rooms        []string     `json:"rooms"`
		NotRooms     []string     `json:"not_rooms"`
		IncludeLeave *bool        `json:"include_leave"`
		Ephemeral    *eventFilter `json:"ephemeral"`
		State        *eventFilter `json:"state"`
		Timeline     *eventFilter `json:"timeline"`
		AccountData  *eventFilter `json:"account_data"`
	} `json:"room"`
}

// eventFilter has the members of EventFilter, RoomEventFilter and StateFilter.
type eventFilter struct {
	Limit         *int64   `json:"limit"`
	Senders       []string `json:"senders"`
	NotSenders    []string `json:"not_senders"`
	Types         []string `json:"types"`
	NotTypes      []string `json:"not_types"`
	Rooms         []string `json:"rooms"`
	NotRooms      []string `json:"not_rooms"`
	ContainsURL   *bool    `json:"contains_url"`
	LazyMembers   *bool    `json:"lazy_load_members"`
	AllMembers    *bool    `json:"include_redundant_members"`
	ThreadUnreads *bool    `json:"unread_thread_notifications"`
}

func (f *eventFilter) check() error {
	if f == nil {
		return nil
	}
	if f.Limit != nil && *f.Limit < 0 {
		return matrix.BadJSON("The limit of a filter must not be negative")
	}
	for _, list := range [][]string{f.Senders, f.NotSenders} {
		for _, id := range list {
			if !matrix.ValidUserID(id) {
				return matrix.BadJSON("A filter's senders must be user ids")
			}
		}
	}
	return checkRooms(f.Rooms, f.NotRooms)
}

func checkRooms(lists ...[]string) error {
	for _, list := range lists {
		for _, id := range list {
			if !matrix.ValidRoomID(id) {
				return matrix.BadJSON("A filter's rooms must be room ids")
			}
		}
	}
	return nil
}

const maxFilter = 64 << 10

// ValidateFilter checks a filter of POST /filter or an inline filter of /sync. Errors: M_BAD_JSON, M_TOO_LARGE.
func ValidateFilter(body json.RawMessage) error {
	if len(body) > maxFilter {
		return matrix.TooLarge("A filter has at most 64 KiB")
	}
	var f syncFilter
	if err := json.Unmarshal(body, &f); err != nil {
		return matrix.BadJSON("The filter has a wrong shape: " + err.Error()).With(err)
	}
	if f.EventFormat != "" && f.EventFormat != "client" && f.EventFormat != "federation" {
		return matrix.BadJSON("event_format is client or federation")
	}
	all := []*eventFilter{f.Presence, f.AccountData}
	if f.Room != nil {
		if err := checkRooms(f.Room.Rooms, f.Room.NotRooms); err != nil {
			return err
		}
		all = append(all, f.Room.Ephemeral, f.Room.State, f.Room.Timeline, f.Room.AccountData)
	}
	for _, part := range all {
		if err := part.check(); err != nil {
			return err
		}
	}
	return nil
}

// PutFilter stores a filter and returns its id, which is a hash: equal filters have equal ids. Errors: as ValidateFilter.
func (a *Accounts) PutFilter(ctx context.Context, userID string, body json.RawMessage) (id string, err error) {
	if err := ValidateFilter(body); err != nil {
		return "", err
	}
	var compact bytes.Buffer
	if err := json.Compact(&compact, body); err != nil {
		return "", matrix.BadJSON("The filter is not JSON").With(err)
	}
	sum := sha256.Sum256(compact.Bytes())
	id = base64.RawURLEncoding.EncodeToString(sum[:12])
	if _, err := a.Filter(ctx, userID, id); err == nil {
		return id, nil
	}
	return id, a.db.Tx(ctx, func(tx *db.Tx) error {
		if err := LockUser(ctx, tx, userID); err != nil {
			return err
		}
		_, err := tx.Exec(
			ctx, `INSERT INTO filters (user_id, filter_id, body) VALUES ($1, $2, $3) ON CONFLICT (user_id, filter_id) DO NOTHING`, userID,
			id, compact.String(),
		)
		return err
	})
}

// Filter returns a stored filter, which must not be changed. Errors: M_NOT_FOUND.
func (a *Accounts) Filter(ctx context.Context, userID, id string) (json.RawMessage, error) {
	key := filterKey{userID, id}
	if body, ok := a.filters.cache.GetIfPresent(key); ok {
		return body, nil
	}
	var body string
	err := a.db.QueryRow(ctx, `SELECT body FROM filters WHERE user_id = $1 AND filter_id = $2`, userID, id).Scan(&body)
	if errors.Is(err, db.ErrNoRows) {
		return nil, matrix.NotFound("There is no such filter")
	}
	if err != nil {
		return nil, err
	}
	a.filters.cache.Set(key, json.RawMessage(body))
	return json.RawMessage(body), nil
}
