package lyceum_test

import (
	"maps"
	"net/http"
	"slices"
	"testing"

	"lyceum/accounts"
	"lyceum/admin"
	"lyceum/devices"
	"lyceum/directory"
	"lyceum/media"
	"lyceum/presence"
	"lyceum/push"
	"lyceum/receipts"
	"lyceum/reports"
	"lyceum/rooms"
	"lyceum/syncapi"
	"lyceum/typing"
)

// posts are the routes whose hop is not repeated because of its method: true where doing it twice is the same as once, else
// why it is not.
var posts = map[string]any{
	"/_matrix/client/v3/rooms/{roomID}/receipt/{type}/{eventID}": true,
	"/_matrix/client/v3/rooms/{roomID}/read_markers":             true,
	"/_matrix/client/v3/rooms/{roomID}/join":                     true, // who is a member stays one, without an event
	"/_matrix/client/v3/join/{roomIDOrAlias}":                    true,
	"/_matrix/client/v3/rooms/{roomID}/leave":                    true, // likewise
	"/_matrix/client/v3/rooms/{roomID}/ban":                      true, // the same state once more is no event
	"/_matrix/client/v3/rooms/{roomID}/forget":                   true,
	"/_matrix/client/v3/rooms/{roomID}/send/{type}":              true, // its transaction is web.Request.Once
	"/_matrix/client/v3/publicRooms":                             true, // it reads
	"/_matrix/client/v3/user_directory/search":                   true,
	"/_matrix/client/v3/search":                                  true,
	"/_matrix/client/v3/pushers/set":                             true,
	"/_matrix/client/v3/keys/query":                              true, // it reads
	"/_matrix/client/v3/keys/claim":                              true, // what it got is found by web.Request.Once
	"/_matrix/client/v3/keys/signatures/upload":                  true,
	"/_matrix/client/v3/user/{userID}/filter":                    true, // the id is the filter's hash

	"/_matrix/client/v3/rooms/{roomID}/kick":                "403 for who is not in the room any more",
	"/_matrix/client/v3/rooms/{roomID}/unban":               "403 for who is not banned any more",
	"/_matrix/client/v3/rooms/{roomID}/invite":              "403 for who has joined meanwhile",
	"/_matrix/client/v3/knock/{roomIDOrAlias}":              "a second event",
	"/_matrix/client/v3/createRoom":                         "a second room",
	"/_matrix/client/v3/rooms/{roomID}/upgrade":             "a second room",
	"/_matrix/client/v3/rooms/{roomID}/report":              "a second report",
	"/_matrix/client/v3/rooms/{roomID}/report/{eventID}":    "a second report",
	"/_matrix/client/v3/users/{userID}/report":              "a second report",
	"/_matrix/client/v3/login":                              "a second device",
	"/_matrix/client/v3/refresh":                            "a second token",
	"/_matrix/client/v3/register":                           "the name is taken",
	"/_synapse/admin/v1/register":                           "the nonce is used",
	"/{$}":                                                  "the name is taken",
	"/_matrix/client/v3/auth/{type}/fallback/web":           "the session of the log-in has moved on",
	"/_matrix/client/v3/logout":                             "the token is unknown",
	"/_matrix/client/v3/logout/all":                         "the token is unknown",
	"/_matrix/client/v3/account/password":                   "the session that allowed it is used",
	"/_matrix/client/v3/account/deactivate":                 "the token is unknown",
	"/_matrix/client/v3/delete_devices":                     "the session that allowed it is used",
	"/_matrix/client/v3/user/{userID}/openid/request_token": "a second token",
	"/_matrix/client/v3/room_keys/version":                  "a second version",
	"/_matrix/client/v3/keys/upload":                        "a key that was claimed meanwhile would be given out again",
	"/_matrix/client/v3/keys/device_signing/upload":         "the session that allowed it is used",
	"/_matrix/media/v3/upload":                              "a second file",
	"/_matrix/media/v1/create":                              "a second file",
}

func TestWhichPostsAreIdempotent(t *testing.T) {
	routes := slices.Concat(
		new(accounts.Accounts).Routes(), new(admin.Admin).Routes(), new(devices.Devices).Routes(), new(directory.Directory).Routes(),
		new(media.Media).Routes(),
		new(presence.Presence).Routes(), new(push.Push).Routes(), new(receipts.Receipts).Routes(), new(reports.Reports).Routes(),
		new(rooms.Rooms).Routes(),
		new(syncapi.Sync).Routes(), new(typing.Typing).Routes(),
	)
	left := maps.Clone(posts)
	for _, r := range routes {
		if r.Method() != http.MethodPost || r.Role == "" {
			if r.Idempotent {
				t.Errorf("%s: only a POST that is passed on has to say that it is idempotent", r.Pattern)
			}
			continue
		}
		want, known := posts[r.Path()]
		delete(left, r.Path())
		if !known {
			t.Errorf("%s: say whether it may be done twice, and why it may not", r.Pattern)
		} else if r.Idempotent != (want == true) {
			t.Errorf("%s: Idempotent is %v, expected %v", r.Pattern, r.Idempotent, want)
		}
	}
	for path := range left {
		t.Errorf("%s: there is no such route", path)
	}
}
