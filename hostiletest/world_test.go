package hostiletest_test

import (
	"crypto/hmac"
	"crypto/sha1"
	"encoding/hex"
	"fmt"
	"net/url"
	"strings"
	"sync/atomic"
	"testing"

	"github.com/tidwall/gjson"

	"lyceum/fleettest"
)

type obj = map[string]any

// mark stands in all that is the owner's alone.
const mark = "SECRET"

// world is a private room with people who stand to it in every way, and what its owner keeps besides.
type world struct {
	t      *testing.T
	fleet  *fleettest.Fleet
	people map[string]*fleettest.User
	names  map[string]string // what stands in paths
	txn    int
}

// The people. nobody has no token, stranger one that is none, device is another device of the owner, forgotten has left and
// forgotten the room.
var everybody = []string{
	"nobody",
	"stranger",
	"outsider",
	"invited",
	"left",
	"forgotten",
	"banned",
	"muted",
	"member",
	"admin",
	"device",
	"owner",
}

var serial atomic.Int64

func newWorld(t *testing.T, f *fleettest.Fleet) *world {
	t.Helper()
	w := &world{t: t, fleet: f, people: map[string]*fleettest.User{}}
	for _, name := range []string{"outsider", "invited", "left", "forgotten", "banned", "muted", "member", "victim", "owner"} {
		w.people[name] = f.Register(t, name)
	}
	w.people["admin"] = w.administrator()
	owner := w.people["owner"]
	w.people["device"] = owner.Login("owner-password")
	nobody, stranger := *owner, *owner
	nobody.Token, stranger.Token = "", "syt_this_is_none"
	w.people["nobody"], w.people["stranger"] = &nobody, &stranger

	room := owner.Do("POST", v3+"/createRoom", obj{"preset": "private_chat", "name": "a room", "room_alias_name": fmt.Sprint("alias",
		serial.Add(1))}).
		Get("room_id").String()
	w.names = map[string]string{
		"roomID": room, "roomIDOrAlias": room, "userID": owner.ID, "deviceID": owner.Device, "serverName": fleettest.ServerName,
		"stateKey": "", "field": "displayname", "fileName": "f.txt", "relType": "m.thread", "kind": "content", "ruleID": "mine",
		"newalias": fmt.Sprintf(
			"#new%d:%s",
			serial.Add(1),
			fleettest.ServerName,
		), "tag": "u.mine", "version": "1", "sessionID": "session", "type": "m.room.message", "file": "nothing.js",
	}
	for _, name := range []string{"invited", "left", "forgotten", "banned", "muted", "member", "victim"} {
		owner.Do("POST", w.room("invite"), obj{"user_id": w.people[name].ID})
		if name != "invited" {
			w.people[name].Do("POST", w.room("join"), obj{})
		}
	}
	w.names["old"] = owner.Send(room, "old", "known to all who were there")
	w.people["left"].Do("POST", w.room("leave"), obj{})
	w.people["forgotten"].Do("POST", w.room("leave"), obj{})
	w.people["forgotten"].Do("POST", w.room("forget"), obj{})
	owner.Do("POST", w.room("ban"), obj{"user_id": w.people["banned"].ID})
	levels := owner.Do("GET", w.room("state", "m.room.power_levels"), nil)
	content := levels.Value().(obj)
	users, _ := content["users"].(obj)
	if users == nil {
		users = obj{}
	}
	users[w.people["muted"].ID] = -1
	content["users"] = users
	owner.Do("PUT", w.room("state", "m.room.power_levels"), content)
	owner.Do("PUT", w.room("state", "test.secret", ""), obj{"x": mark})
	w.names["eventID"] = owner.Send(room, "new", mark)
	w.names["thread"] = owner.Do("PUT", w.room("send", "m.room.message", "thread"), obj{
		"body": mark, "msgtype": "m.text", "m.relates_to": obj{"rel_type": "m.thread", "event_id": w.names["eventID"]},
	}).Get("event_id").String()
	w.own(owner)
	for name, u := range w.people {
		w.names[name] = u.ID
	}
	return w
}

// own fills what belongs to the owner alone.
func (w *world) own(owner *fleettest.User) {
	w.t.Helper()
	owner.Do("PUT", v3+"/profile/"+url.PathEscape(owner.ID)+"/displayname", obj{"displayname": "The owner"})
	owner.Do("PUT", owner.UserPath("account_data", "test.data"), obj{"x": mark})
	owner.Do("PUT", owner.UserPath("rooms", w.names["roomID"], "account_data", "test.data"), obj{"x": mark})
	owner.Do("PUT", owner.UserPath("rooms", w.names["roomID"], "tags", "u.mine"), obj{"x": mark})
	w.names["filterID"] = owner.Do("POST", owner.UserPath("filter"), obj{"event_fields": []string{mark}}).Get("filter_id").String()
	owner.Do("POST", v3+"/room_keys/version", obj{"algorithm": "m.megolm_backup.v1.curve25519-aes-sha2", "auth_data": obj{"x": mark}})
	owner.Do("PUT", v3+"/room_keys/keys/"+url.PathEscape(w.names["roomID"])+"/session?version=1", backupSession(mark))
	owner.Do("PUT", v3+"/pushrules/global/content/mine", obj{"pattern": mark, "actions": []string{"notify"}})
	owner.Do("POST", v3+"/pushers/set", obj{
		"pushkey": mark, "kind": "http", "app_id": "test", "app_display_name": "test", "device_display_name": "test", "lang": "en",
		"data": obj{"url": "http://127.0.0.1:1/_matrix/push/v1/notify"},
	})
	uri := owner.Do("POST", "/_matrix/media/v3/upload?filename=f.txt", []byte("a file")).Get("content_uri").String()
	w.names["mediaID"] = uri[strings.LastIndexByte(uri, '/')+1:]
	w.names["alias"] = owner.Do("GET", w.room("aliases"), nil).Get("aliases.0").String()
	w.people["member"].Do("PUT", v3+"/sendToDevice/test.secret/"+w.transaction(), obj{"messages": obj{owner.ID: obj{"*": obj{"x": mark}}}})
}

func backupSession(text string) obj {
	return obj{"first_message_index": 0, "forwarded_count": 0, "is_verified": true, "session_data": obj{"x": text}}
}

func (w *world) room(parts ...string) string { return fleettest.RoomPath(w.names["roomID"], parts...) }

func (w *world) transaction() string {
	w.txn++
	return fmt.Sprint("h", w.txn)
}

// administrator makes an administrator of the server by the shared secret.
func (w *world) administrator() *fleettest.User {
	w.t.Helper()
	u := w.fleet.Register(w.t, "helper")
	const path = "/_synapse/admin/v1/register"
	nonce := u.Do("GET", path, nil).Get("nonce").String()
	name, password := fmt.Sprint("root", serial.Add(1)), "admin-password"
	m := hmac.New(sha1.New, []byte(secret))
	m.Write([]byte(strings.Join([]string{nonce, name, password, "admin"}, "\x00")))
	a := u.Do("POST", path, obj{"nonce": nonce, "username": name, "password": password, "admin": true, "mac": hex.EncodeToString(m.Sum(nil))})
	u.ID, u.Device, u.Token = a.Get("user_id").String(), a.Get("device_id").String(), a.Get("access_token").String()
	return u
}

// path fills the wildcards of a route.
func (w *world) path(pattern string, with map[string]string) string {
	w.t.Helper()
	var b strings.Builder
	for rest := pattern; rest != ""; {
		before, after, ok := strings.Cut(rest, "{")
		b.WriteString(before)
		if !ok {
			break
		}
		name, next, _ := strings.Cut(after, "}")
		rest = next
		name = strings.TrimSuffix(name, "...")
		value, given := with[name]
		switch {
		case given:
			if alias, ok := w.names[strings.TrimPrefix(value, "=")]; ok && strings.HasPrefix(value, "=") {
				value = alias
			}
		case name == "$":
			value = ""
		case name == "txnID":
			value = w.transaction()
		default:
			var known bool
			if value, known = w.names[name]; !known {
				w.t.Fatalf("%s: nothing is known to stand for {%s}", pattern, name)
			}
		}
		b.WriteString(url.PathEscape(value))
	}
	return b.String()
}

const (
	v1 = "/_matrix/client/v1"
	v3 = "/_matrix/client/v3"
)

// answer is what somebody got.
type answer struct {
	status int
	body   gjson.Result
}

// String is as expectations are written: "200", or "403 M_FORBIDDEN".
func (a answer) String() string {
	if code := a.body.Get("errcode").String(); code != "" {
		return fmt.Sprint(a.status, " ", code)
	}
	return fmt.Sprint(a.status)
}
