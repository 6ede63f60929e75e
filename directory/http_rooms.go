package directory

import (
	"context"
	"slices"
	"strconv"
	"strings"

	"lyceum/matrix"
	"lyceum/matrix/event"
	"lyceum/platform/web"
	"lyceum/rooms"
	"lyceum/rooms/state"
)

const (
	listDefault = 100
	listMax     = 500
)

// listBody is the request of POST /publicRooms.
type listBody struct {
	Limit  *int   `json:"limit"`
	Since  string `json:"since"`
	Filter struct {
		Term  string    `json:"generic_search_term"`
		Types []*string `json:"room_types"`
	} `json:"filter"`
}

func (d *Directory) getPublicRooms(r *web.Request) (any, error) {
	limit, err := r.Int("limit", listDefault, listMax)
	if err != nil {
		return nil, err
	}
	return d.postPublicRooms(r, &listBody{Limit: &limit, Since: r.QueryParam("since")})
}

func (d *Directory) postPublicRooms(r *web.Request, b *listBody) (any, error) {
	if server := r.QueryParam("server"); server != "" && server != d.ServerName {
		return nil, matrix.NotFound("The directory of another server can not be read from here")
	}
	limit := listDefault
	if b.Limit != nil {
		limit = min(*b.Limit, listMax)
	}
	if limit < 0 {
		return nil, matrix.InvalidParam("limit: expected 0 or more")
	}
	offset, err := readOffset("p", b.Since)
	if err != nil {
		return nil, err
	}
	list, err := d.publicRooms(r.Context(), b)
	if err != nil {
		return nil, err
	}
	total := len(list)
	reply := map[string]any{"total_room_count_estimate": total}
	if offset > 0 {
		reply["prev_batch"] = "p" + strconv.Itoa(max(0, offset-limit))
	}
	list = list[min(offset, total):]
	if len(list) > limit {
		list = list[:limit]
		if limit > 0 {
			reply["next_batch"] = "p" + strconv.Itoa(offset+limit)
		}
	}
	reply["chunk"] = append([]rooms.Summary{}, list...)
	return reply, nil
}

func readOffset(prefix, token string) (int, error) {
	if token == "" {
		return 0, nil
	}
	n, err := strconv.Atoi(strings.TrimPrefix(token, prefix))
	if err != nil || n < 0 || !strings.HasPrefix(token, prefix) {
		return 0, matrix.InvalidParam("This token was not given out by this endpoint")
	}
	return n, nil
}

// publicRooms are the rooms of the directory that match a filter, the largest first.
func (d *Directory) publicRooms(ctx context.Context, b *listBody) ([]rooms.Summary, error) {
	listed, err := d.listing.do(ctx, d.Rooms.PublicRooms) // it counts the members of all rooms, also for people without an account
	if err != nil {
		return nil, err
	}
	term := strings.ToLower(b.Filter.Term)
	out := make([]rooms.Summary, 0, len(listed))
	for _, l := range listed {
		s, err := d.summary(ctx, l.Root)
		if err != nil {
			return nil, err
		}
		s.RoomID, s.Joined = l.RoomID, l.Joined
		s.Encryption, s.Version, s.AllowedRooms = "", "", nil // not part of this answer
		if !hasTerm(s, term) || !hasType(s, b.Filter.Types) {
			continue
		}
		out = append(out, s)
	}
	return out, nil
}

func (d *Directory) summary(ctx context.Context, root state.ID) (rooms.Summary, error) {
	if err := d.Rooms.FollowRedactions(ctx); err != nil {
		return rooms.Summary{}, err
	}
	key := summaryKey{root, d.Rooms.RedactionCount()}
	if s, ok := d.summaries.GetIfPresent(key); ok {
		return s, nil
	}
	s, err := d.Rooms.SummaryAt(ctx, root)
	if err == nil {
		d.summaries.Set(key, s)
	}
	return s, err
}

func hasTerm(s rooms.Summary, term string) bool {
	return term == "" || slices.ContainsFunc([]string{s.Name, s.Topic, s.CanonicalAlias}, func(text string) bool {
		return strings.Contains(strings.ToLower(text), term)
	})
}

// hasType holds room_types: null stands for rooms without a type.
func hasType(s rooms.Summary, types []*string) bool {
	return types == nil || slices.ContainsFunc(types, func(t *string) bool {
		return t == nil && s.RoomType == "" || t != nil && *t == s.RoomType
	})
}

func (d *Directory) getVisibility(r *web.Request) (any, error) {
	v, err := d.Rooms.DirectoryVisibility(r.Context(), r.Path("roomID"))
	return map[string]string{"visibility": v}, err
}

func (d *Directory) putVisibility(r *web.Request, b *struct {
	Visibility string `json:"visibility"`
},
) (any, error) {
	if err := r.MayAct(); err != nil {
		return nil, err
	}
	ctx, roomID := r.Context(), r.Path("roomID")
	if b.Visibility == "" {
		b.Visibility = "public"
	}
	h, ok, err := d.Rooms.Head(ctx, roomID)
	if err != nil {
		return nil, err
	}
	if !ok {
		return nil, matrix.NotFound("There is no such room here")
	}
	if !r.Identity.Admin {
		m, err := d.Rooms.Membership(ctx, r.UserID(), roomID)
		if err != nil {
			return nil, err
		}
		power, err := d.Rooms.PowerAt(ctx, h.Version, h.Root)
		if err != nil {
			return nil, err
		}
		if m.Membership != event.MembershipJoin || !power.CanSend(r.UserID(), event.TypeCanonicalAlias, true) {
			return nil, matrix.Forbidden("Only members who may set the canonical alias of the room may list it")
		}
	}
	return nil, d.Rooms.SetDirectoryVisibility(ctx, roomID, b.Visibility)
}
