package push

import (
	"encoding/json"
	"net/url"
	"slices"
	"strings"

	"lyceum/matrix"
	"lyceum/platform/web"
)

func (p *Push) getPushers(r *web.Request) (any, error) {
	list, err := p.queryPushers(r.Context(), `user_id = $1`, r.UserID())
	if err != nil {
		return nil, err
	}
	if list == nil {
		list = []*pusher{}
	}
	return map[string]any{"pushers": list}, nil
}

type pusherBody struct {
	Kind       json.RawMessage `json:"kind"`
	AppID      string          `json:"app_id"`
	Pushkey    string          `json:"pushkey"`
	AppName    *string         `json:"app_display_name"`
	DeviceName *string         `json:"device_display_name"`
	ProfileTag string          `json:"profile_tag"`
	Lang       *string         `json:"lang"`
	Data       json.RawMessage `json:"data"`
	Append     bool            `json:"append"`
}

const (
	maxPushkey = 512
	maxAppID   = 64
	maxText    = 1000
	maxPushers = 100 // of a user
)

func (p *Push) setPusher(r *web.Request, b *pusherBody) (any, error) {
	if len(b.Kind) == 0 || b.AppID == "" || b.Pushkey == "" {
		return nil, matrix.MissingParam("Expected kind, app_id and pushkey")
	}
	if len(b.AppID) > maxAppID || len(b.Pushkey) > maxPushkey {
		return nil, matrix.InvalidParam("Expected an app_id of at most 64 and a pushkey of at most 512 bytes")
	}
	if string(b.Kind) == "null" {
		defer p.announcePushers(r.Context())
		return nil, p.deletePusher(r.Context(), r.UserID(), b.AppID, b.Pushkey)
	}
	if err := p.checkPusher(b); err != nil {
		return nil, err
	}
	defer p.announcePushers(r.Context())
	return nil, p.putPusher(r.Context(), r.Identity, b)
}

func (p *Push) checkPusher(b *pusherBody) error {
	var missing []string
	for name, absent := range map[string]bool{
		"app_display_name": b.AppName == nil, "device_display_name": b.DeviceName == nil, "lang": b.Lang == nil, "data": len(b.Data) == 0,
	} {
		if absent {
			missing = append(missing, name)
		}
	}
	if len(missing) > 0 {
		slices.Sort(missing)
		return matrix.MissingParam("Missing parameters: " + strings.Join(missing, ", "))
	}
	if string(b.Kind) != `"http"` {
		return matrix.InvalidParam("kind: this server knows http and null")
	}
	if len(*b.AppName) > maxText || len(*b.DeviceName) > maxText || len(*b.Lang) > maxText || len(b.ProfileTag) > maxText ||
		len(b.Data) > 4*maxText {
		return matrix.InvalidParam("The description of the pusher is too long")
	}
	var data struct {
		URL    string `json:"url"`
		Format string `json:"format"`
	}
	if b.Data[0] != '{' || json.Unmarshal(b.Data, &data) != nil {
		return matrix.InvalidParam("data: expected an object with url")
	}
	if data.URL == "" {
		return matrix.MissingParam("data.url: expected the URL of the push gateway")
	}
	u, err := url.Parse(data.URL)
	if err != nil || u.Host == "" || u.User != nil || u.Path != "/_matrix/push/v1/notify" ||
		u.Scheme != "https" && (u.Scheme != "http" || !p.config.AllowHTTP) {
		return matrix.InvalidParam("data.url: expected https://HOST/_matrix/push/v1/notify")
	}
	return nil
}
