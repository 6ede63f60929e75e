package hostiletest_test

import (
	"lyceum/fleettest"
)

// entry says who may do what a route does to the owner's room or things.
type entry struct {
	may  string            // who succeeds, of everybody; see group
	deny string            // what the others get: "403 M_FORBIDDEN"
	but  map[string]string // who gets something else
	sees string            // who may see the owner's secrets in the answer; "" for may
	// theirs: whoever is not the owner acts on what is their own, with whatever answer below 500. Nothing of the
	// owner's may change or be seen.
	theirs bool
	with   map[string]string // what stands in the path in place of what the world has; "=name" is a name of the world
	query  string
	body   func(w *world, who *fleettest.User) any
}

// groups of people.
var groups = map[string]string{
	"all":     "nobody stranger outsider invited left forgotten banned muted member admin device owner",
	"users":   "outsider invited left forgotten banned muted member admin device owner",
	"members": "muted member device owner",
	"talkers": "member device owner",
	"mine":    "device owner",
	"were":    "left banned muted member device owner",
}

func json(body any) func(*world, *fleettest.User) any {
	return func(*world, *fleettest.User) any { return body }
}

func about2(name string) func(*world, *fleettest.User) any {
	return func(w *world, _ *fleettest.User) any { return obj{"user_id": w.people[name].ID} }
}

const (
	forbidden = "403 M_FORBIDDEN"
	notFound  = "404 M_NOT_FOUND"
)

const msc3391 = "/_matrix/client/unstable/org.matrix.msc3391/user/{userID}"

func typ(name string) map[string]string { return map[string]string{"type": name} }

var (
	anybody    = entry{may: "all"}
	everyUser  = entry{may: "users"}
	adminsOnly = entry{may: "admin", deny: forbidden, with: map[string]string{"userID": "=outsider"}}
	theirs     = entry{theirs: true}
	ownUser    = entry{may: "mine", deny: forbidden}
	readRoom   = entry{may: "were", deny: forbidden, sees: "members"}
	readEvent  = entry{may: "members", deny: notFound}
	readOld    = entry{may: "were", deny: notFound, sees: "members"}.at(map[string]string{"eventID": "=old"})
	open401    = map[string]string{"nobody": "401 M_MISSING_TOKEN", "stranger": "401 M_UNKNOWN_TOKEN"}
	frozen     = map[string]string{"nobody": notFound, "stranger": "401 M_UNKNOWN_TOKEN"}
)

func (e entry) at(with map[string]string) entry { e.with = with; return e }

func (e entry) ask(query string) entry { e.query = query; return e }

func (e entry) send(body func(w *world, who *fleettest.User) any) entry { e.body = body; return e }

func (e entry) except(but map[string]string) entry { e.but = but; return e }

func (e entry) sendJSON(body any) entry { return e.send(json(body)) }

func (e entry) seenBy(who string) entry { e.sees = who; return e }

func may(who, deny string, body any) entry { return entry{may: who, deny: deny, body: json(body)} }

func mayWith(who, deny string, body func(*world, *fleettest.User) any) entry {
	return entry{may: who, deny: deny, body: body}
}

func text() any { return obj{"msgtype": "m.text", "body": "hello"} }

var backupVersion = obj{"algorithm": "m.megolm_backup.v1.curve25519-aes-sha2", "auth_data": obj{"x": "y"}}

// table says for each route of manual/routes.md whose it is.
var table = map[string][]entry{
	"GET /{$}":  {anybody},
	"POST /{$}": {entry{deny: "400 M_INVALID_PARAM"}.send(func(*world, *fleettest.User) any { return obj{"username": "."} })}, // no form

	"GET /.well-known/matrix/client":  {entry{deny: notFound}},
	"GET /.well-known/matrix/server":  {entry{deny: notFound}},
	"GET /.well-known/matrix/support": {entry{deny: notFound}},

	"GET /_lyceum/admin/v1/doctor": {entry{may: "admin", deny: forbidden}},
	"GET /_lyceum/admin/v1/plan":   {entry{may: "admin", deny: forbidden}},
	"GET /_lyceum/admin/v1/status": {entry{may: "admin", deny: forbidden}},
	"GET /_lyceum/status":          {anybody},
	"GET /_lyceum/ui/{file...}":    {entry{deny: "404 M_NOT_FOUND"}},

	"GET " + v1 + "/admin/lock/{userID}":    {adminsOnly},
	"PUT " + v1 + "/admin/lock/{userID}":    {adminsOnly.sendJSON(obj{"locked": true})},
	"GET " + v1 + "/admin/suspend/{userID}": {adminsOnly},
	"PUT " + v1 + "/admin/suspend/{userID}": {adminsOnly.sendJSON(obj{"suspended": true})},
	"GET " + v3 + "/admin/whois/{userID}":   {entry{may: "mine admin", deny: forbidden}},
	"GET /_synapse/admin/v1/event_reports":  {entry{may: "admin", deny: forbidden}},
	"GET /_synapse/admin/v1/event_reports/{reportID}": {
		entry{deny: forbidden, but: map[string]string{"admin": notFound}}.at(map[string]string{"reportID": "none"}),
	},
	"DELETE /_synapse/admin/v1/event_reports/{reportID}": {
		entry{deny: forbidden, but: map[string]string{"admin": notFound}}.at(map[string]string{"reportID": "none"}),
	},
	"GET /_synapse/admin/v1/room_reports": {entry{may: "admin", deny: forbidden}},
	"GET /_synapse/admin/v1/user_reports": {entry{may: "admin", deny: forbidden}},
	"GET /_synapse/admin/v1/register":     {anybody},
	"POST /_synapse/admin/v1/register": {
		may("", "400 M_UNKNOWN", obj{"nonce": "none", "username": "x", "password": "y", "admin": true, "mac": "00"}),
	},

	"GET " + v1 + "/media/config":                                      {everyUser},
	"GET " + v1 + "/media/download/{serverName}/{mediaID}":             {everyUser},
	"GET " + v1 + "/media/download/{serverName}/{mediaID}/{fileName}":  {everyUser},
	"GET " + v1 + "/media/thumbnail/{serverName}/{mediaID}":            {entry{deny: "400 M_UNKNOWN"}.ask("width=10&height=10")},
	"POST /_matrix/media/v1/create":                                    {theirs},
	"GET /_matrix/media/v3/config":                                     {everyUser},
	"GET /_matrix/media/v3/download/{serverName}/{mediaID}":            {everyUser.except(frozen)},
	"GET /_matrix/media/v3/download/{serverName}/{mediaID}/{fileName}": {everyUser.except(frozen)},
	"GET /_matrix/media/v3/thumbnail/{serverName}/{mediaID}":           {entry{deny: "400 M_UNKNOWN", but: frozen}.ask("width=10&height=10")},
	"POST /_matrix/media/v3/upload": {
		theirs.send(func(*world, *fleettest.User) any { return []byte("file") }),
	},
	"PUT /_matrix/media/v3/upload/{serverName}/{mediaID}": {
		entry{
			deny: forbidden,
			but:  map[string]string{"owner": "409 M_CANNOT_OVERWRITE_MEDIA", "device": "409 M_CANNOT_OVERWRITE_MEDIA"},
			body: func(*world, *fleettest.User) any { return []byte("other") },
		},
	},

	"GET " + v1 + "/register/m.login.registration_token/validity":        {anybody.ask("token=none")},
	"GET " + v1 + "/room_summary/{roomIDOrAlias}":                        {entry{may: "members invited", deny: notFound}},
	"GET " + v1 + "/rooms/{roomID}/hierarchy":                            {entry{may: "members invited", deny: forbidden}},
	"GET " + v1 + "/rooms/{roomID}/relations/{eventID}":                  {readEvent, readOld},
	"GET " + v1 + "/rooms/{roomID}/relations/{eventID}/{relType}":        {readEvent, readOld},
	"GET " + v1 + "/rooms/{roomID}/relations/{eventID}/{relType}/{type}": {readEvent, readOld},
	"GET " + v1 + "/rooms/{roomID}/threads":                              {readRoom},
	"GET " + v1 + "/rooms/{roomID}/timestamp_to_event":                   {readRoom.ask("ts=1&dir=f")},

	"GET " + v3 + "/account/3pid": {everyUser},
	"POST " + v3 + "/account/deactivate": {
		entry{
			deny: "403 M_FORBIDDEN",
		}.sendJSON(
			obj{"auth": obj{"type": "m.login.password", "identifier": obj{"type": "m.id.user", "user": "nobody"}, "password": "wrong"}},
		),
	},
	"POST " + v3 + "/account/password":         {entry{deny: "401"}.sendJSON(obj{"new_password": "another-password"})},
	"GET " + v3 + "/account/whoami":            {everyUser},
	"GET " + v3 + "/auth/{type}/fallback/web":  {entry{deny: notFound}.at(typ("m.login.nothing"))},
	"POST " + v3 + "/auth/{type}/fallback/web": {entry{deny: notFound}.at(typ("m.login.nothing"))},
	"GET " + v3 + "/capabilities":              {everyUser},
	"POST " + v3 + "/createRoom":               {theirs.sendJSON(obj{})},
	"GET " + v3 + "/devices":                   {theirs},
	"DELETE " + v3 + "/devices/{deviceID}":     {entry{deny: "401"}.sendJSON(obj{})},
	"GET " + v3 + "/devices/{deviceID}":        {entry{may: "mine", deny: notFound}},
	"PUT " + v3 + "/devices/{deviceID}":        {may("mine", notFound, obj{"display_name": "mine now"})},
	"POST " + v3 + "/delete_devices": {
		entry{deny: "401"}.send(func(w *world, _ *fleettest.User) any { return obj{"devices": []string{w.names["deviceID"]}} }),
	},
	"GET " + v3 + "/directory/list/room/{roomID}": {anybody},
	"PUT " + v3 + "/directory/list/room/{roomID}": {may("mine admin", forbidden, obj{"visibility": "public"})},
	"DELETE " + v3 + "/directory/room/{alias}":    {entry{may: "mine admin", deny: forbidden}},
	"GET " + v3 + "/directory/room/{alias}":       {anybody},
	"PUT " + v3 + "/directory/room/{alias}": {
		mayWith(
			"members",
			forbidden,
			func(w *world, _ *fleettest.User) any { return obj{"room_id": w.names["roomID"]} },
		).at(map[string]string{"alias": "=newalias"}),
	},
	"POST " + v3 + "/join/{roomIDOrAlias}":  {may("members invited", forbidden, obj{})},
	"GET " + v3 + "/joined_rooms":           {theirs},
	"POST " + v3 + "/knock/{roomIDOrAlias}": {may("", forbidden, obj{})},

	"GET " + v3 + "/keys/changes": {entry{deny: "400 M_INVALID_PARAM"}.ask("from=none&to=none")},
	"POST " + v3 + "/keys/claim": {everyUser.send(func(w *world, _ *fleettest.User) any {
		return obj{"one_time_keys": obj{w.names["userID"]: obj{w.names["deviceID"]: "signed_curve25519"}}}
	})},
	"POST " + v3 + "/keys/device_signing/upload": {entry{deny: "400 M_INVALID_PARAM"}.send(func(w *world, who *fleettest.User) any {
		owner := w.names["userID"]
		return obj{
			"master_key": obj{
				"user_id": owner,
				"usage":   []string{"master"},
				"keys":    obj{"ed25519:AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA": "AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA"},
			},
		}
	}).except(map[string]string{"owner": "200", "device": "200"})},
	"POST " + v3 + "/keys/query": {
		everyUser.send(func(w *world, _ *fleettest.User) any { return obj{"device_keys": obj{w.names["userID"]: []string{}}} }),
	},
	"POST " + v3 + "/keys/signatures/upload": {theirs.send(func(w *world, _ *fleettest.User) any {
		return obj{
			w.names["userID"]: obj{w.names["deviceID"]: obj{"user_id": w.names["userID"], "device_id": w.names["deviceID"], "signatures": obj{}}},
		}
	})},
	"POST " + v3 + "/keys/upload": {
		entry{deny: "400 M_INVALID_PARAM", but: map[string]string{"owner": "200"}}.send(func(w *world, _ *fleettest.User) any {
			return obj{
				"device_keys": obj{
					"user_id":    w.names["userID"],
					"device_id":  w.names["deviceID"],
					"algorithms": []string{},
					"keys":       obj{},
					"signatures": obj{},
				},
			}
		}),
	},

	"GET " + v3 + "/login": {anybody},
	"POST " + v3 + "/login": {entry{deny: forbidden}.send(func(w *world, _ *fleettest.User) any {
		return obj{"type": "m.login.password", "identifier": obj{"type": "m.id.user", "user": w.names["userID"]}, "password": "wrong"}
	})},
	"POST " + v3 + "/logout":     {theirs.except(open401)},
	"POST " + v3 + "/logout/all": {theirs.except(open401)},
	"POST " + v3 + "/refresh":    {entry{deny: "401 M_UNKNOWN_TOKEN"}.sendJSON(obj{"refresh_token": "none"})},
	"POST " + v3 + "/register": {entry{deny: "400 M_USER_IN_USE"}.send(func(w *world, _ *fleettest.User) any {
		return obj{"username": w.people["owner"].Name(), "password": "other-password", "auth": obj{"type": "m.login.dummy"}}
	})},
	"GET " + v3 + "/register/available": {entry{deny: "400 M_INVALID_USERNAME"}.ask("username=%20")},
	"GET " + v3 + "/notifications":      {theirs.seenBy("members")},

	"GET " + v3 + "/presence/{userID}/status":    {entry{may: "members", deny: forbidden}},
	"PUT " + v3 + "/presence/{userID}/status":    {may("mine", forbidden, obj{"presence": "online", "status_msg": "mine"})},
	"GET " + v3 + "/profile/{userID}":            {anybody},
	"DELETE " + v3 + "/profile/{userID}/{field}": {ownUser},
	"GET " + v3 + "/profile/{userID}/{field}":    {anybody.at(map[string]string{"field": "displayname"})},
	"PUT " + v3 + "/profile/{userID}/{field}":    {ownUser.sendJSON(obj{"displayname": "mine"})},

	"GET " + v3 + "/publicRooms":  {anybody},
	"POST " + v3 + "/publicRooms": {everyUser.sendJSON(obj{"filter": obj{"generic_search_term": "a room"}})},
	"POST " + v3 + "/search": {
		theirs.sendJSON(obj{"search_categories": obj{"room_events": obj{"search_term": mark}}}).seenBy("members"),
	},
	"POST " + v3 + "/user_directory/search": {theirs.sendJSON(obj{"search_term": "owner"})},
	"GET " + v3 + "/pushers":                {theirs},
	"POST " + v3 + "/pushers/set":           {theirs.sendJSON(obj{"pushkey": mark, "kind": nil, "app_id": "test"})},
	"GET " + v3 + "/pushrules/{$}":          {theirs},
	"GET " + v3 + "/pushrules":              {theirs},
	"GET " + v3 + "/pushrules/{part...}":    {theirs.at(map[string]string{"part": "global/content/"})},
	"PUT " + v3 + "/pushrules/{part...}": {
		theirs.at(map[string]string{"part": "global/content/"}).sendJSON(obj{"actions": []string{}}),
	},
	"DELETE " + v3 + "/pushrules/{part...}":                   {theirs.at(map[string]string{"part": "global/content/"})},
	"GET " + v3 + "/pushrules/global":                         {theirs},
	"GET " + v3 + "/pushrules/global/{$}":                     {theirs},
	"GET " + v3 + "/pushrules/global/{kind}/{ruleID}":         {entry{may: "mine", deny: notFound}},
	"PUT " + v3 + "/pushrules/global/{kind}/{ruleID}":         {theirs.sendJSON(obj{"pattern": "theirs", "actions": []string{}})},
	"DELETE " + v3 + "/pushrules/global/{kind}/{ruleID}":      {entry{may: "mine", deny: notFound}},
	"GET " + v3 + "/pushrules/global/{kind}/{ruleID}/actions": {entry{may: "mine", deny: notFound}},
	"PUT " + v3 + "/pushrules/global/{kind}/{ruleID}/actions": {may("mine", notFound, obj{"actions": []string{}})},
	"GET " + v3 + "/pushrules/global/{kind}/{ruleID}/enabled": {entry{may: "mine", deny: notFound}},
	"PUT " + v3 + "/pushrules/global/{kind}/{ruleID}/enabled": {may("mine", notFound, obj{"enabled": false})},

	"POST " + v3 + "/room_keys/version":                  {theirs.sendJSON(backupVersion)},
	"GET " + v3 + "/room_keys/version":                   {entry{may: "mine", deny: notFound}},
	"GET " + v3 + "/room_keys/version/{version}":         {entry{may: "mine", deny: notFound}},
	"PUT " + v3 + "/room_keys/version/{version}":         {may("mine", notFound, backupVersion)},
	"DELETE " + v3 + "/room_keys/version/{version}":      {entry{may: "mine", deny: notFound}},
	"GET " + v3 + "/room_keys/keys":                      {entry{may: "mine", deny: notFound}.ask("version=1")},
	"GET " + v3 + "/room_keys/keys/{roomID}":             {entry{may: "mine", deny: notFound}.ask("version=1")},
	"GET " + v3 + "/room_keys/keys/{roomID}/{sessionID}": {entry{may: "mine", deny: notFound}.ask("version=1")},
	"PUT " + v3 + "/room_keys/keys": {
		may("mine", notFound, obj{"rooms": obj{"!r:x": obj{"sessions": obj{"s": backupSession("y")}}}}).ask("version=1"),
	},
	"PUT " + v3 + "/room_keys/keys/{roomID}": {
		may("mine", notFound, obj{"sessions": obj{"s": backupSession("y")}}).ask("version=1"),
	},
	"PUT " + v3 + "/room_keys/keys/{roomID}/{sessionID}":    {may("mine", notFound, backupSession("y")).ask("version=1")},
	"DELETE " + v3 + "/room_keys/keys":                      {entry{may: "mine", deny: notFound}.ask("version=1")},
	"DELETE " + v3 + "/room_keys/keys/{roomID}":             {entry{may: "mine", deny: notFound}.ask("version=1")},
	"DELETE " + v3 + "/room_keys/keys/{roomID}/{sessionID}": {entry{may: "mine", deny: notFound}.ask("version=1")},

	"GET " + v3 + "/rooms/{roomID}/aliases": {entry{may: "members", deny: forbidden}},
	"POST " + v3 + "/rooms/{roomID}/ban": {
		mayWith("mine", forbidden, about2("victim")),
		mayWith("mine", forbidden, about2("outsider")),
	},
	"POST " + v3 + "/rooms/{roomID}/unban": {mayWith("mine", forbidden, about2("banned"))},
	"POST " + v3 + "/rooms/{roomID}/kick":  {mayWith("mine", forbidden, about2("victim"))},
	"POST " + v3 + "/rooms/{roomID}/invite": {
		mayWith("talkers", forbidden, about2("outsider")),
		mayWith("", forbidden, about2("banned")),
	},
	"POST " + v3 + "/rooms/{roomID}/join":  {may("members invited", forbidden, obj{})},
	"POST " + v3 + "/rooms/{roomID}/leave": {may("members invited left forgotten", forbidden, obj{})},
	"POST " + v3 + "/rooms/{roomID}/forget": {
		may(
			"left forgotten banned",
			notFound,
			obj{},
		).except(map[string]string{
			"owner": "400 M_UNKNOWN", "device": "400 M_UNKNOWN", "member": "400 M_UNKNOWN", "muted": "400 M_UNKNOWN",
			"invited": "400 M_UNKNOWN",
		}),
	},
	"POST " + v3 + "/rooms/{roomID}/upgrade":          {may("mine", forbidden, obj{"new_version": "12"})},
	"GET " + v3 + "/rooms/{roomID}/context/{eventID}": {readEvent, readOld},
	"GET " + v3 + "/rooms/{roomID}/event/{eventID}":   {readEvent, readOld},
	"GET " + v3 + "/rooms/{roomID}/joined_members":    {entry{may: "members", deny: forbidden}},
	"GET " + v3 + "/rooms/{roomID}/members":           {readRoom},
	"GET " + v3 + "/rooms/{roomID}/messages":          {readRoom.ask("dir=b&limit=100"), readRoom.ask("dir=f&limit=100")},
	"GET " + v3 + "/rooms/{roomID}/state":             {readRoom},
	"GET " + v3 + "/rooms/{roomID}/state/{type}": {
		entry{may: "members", deny: forbidden, but: map[string]string{"left": notFound, "banned": notFound}}.at(typ("test.secret")),
	},
	"GET " + v3 + "/rooms/{roomID}/state/{type}/{$}": {
		entry{may: "members", deny: forbidden, but: map[string]string{"left": notFound, "banned": notFound}}.at(typ("test.secret")),
	},
	"GET " + v3 + "/rooms/{roomID}/state/{type}/{stateKey}": {
		entry{may: "were", deny: forbidden}.at(map[string]string{"type": "m.room.member", "stateKey": "=owner"}),
	},
	"POST " + v3 + "/rooms/{roomID}/read_markers": {mayWith("members", forbidden, func(w *world, _ *fleettest.User) any {
		return obj{"m.read": w.names["eventID"], "m.fully_read": w.names["eventID"]}
	})},
	"POST " + v3 + "/rooms/{roomID}/receipt/{type}/{eventID}": {
		may("members", forbidden, obj{}).at(typ("m.read")),
		may("members", forbidden, obj{}).at(typ("m.read.private")),
	},
	"PUT " + v3 + "/rooms/{roomID}/redact/{eventID}/{txnID}": {
		may("mine", forbidden, obj{}),
		may("mine", forbidden, obj{}).at(map[string]string{"eventID": "=old"}),
	},
	"POST " + v3 + "/rooms/{roomID}/report":           {may("users", "", obj{"reason": "bad"})},
	"POST " + v3 + "/rooms/{roomID}/report/{eventID}": {may("members", notFound, obj{"reason": "bad"})},
	"POST " + v3 + "/users/{userID}/report":           {may("users", "", obj{"reason": "bad"})},
	"PUT " + v3 + "/rooms/{roomID}/send/{type}/{txnID}": {
		may("talkers", forbidden, text()),
		mayWith(
			"mine",
			forbidden,
			func(w *world, _ *fleettest.User) any { return obj{"redacts": w.names["eventID"]} },
		).at(typ("m.room.redaction")),
		may("", forbidden, obj{"membership": "join"}).at(typ("m.room.member")),
		may("", forbidden, obj{}).at(typ("m.room.create")),
	},
	"POST " + v3 + "/rooms/{roomID}/send/{type}": {
		may("talkers", forbidden, text()),
		may("", forbidden, obj{"membership": "join"}).at(typ("m.room.member")),
	},
	"PUT " + v3 + "/rooms/{roomID}/state/{type}": {
		may("mine", forbidden, obj{"x": "y"}).at(typ("test.state")),
		may("mine", forbidden, obj{"topic": "mine"}).at(typ("m.room.topic")),
	},
	"PUT " + v3 + "/rooms/{roomID}/state/{type}/{$}": {may("mine", forbidden, obj{"x": "y"}).at(typ("test.state"))},
	"PUT " + v3 + "/rooms/{roomID}/state/{type}/{stateKey}": {
		may("mine", forbidden, obj{"x": "y"}).at(map[string]string{"type": "test.state", "stateKey": "key"}),
		may("", forbidden, obj{"membership": "join"}).at(map[string]string{"type": "m.room.member", "stateKey": "=outsider"}),
		may("talkers", forbidden, obj{"membership": "invite"}).at(map[string]string{"type": "m.room.member", "stateKey": "=outsider"}),
		may("mine", forbidden, obj{"membership": "ban"}).at(map[string]string{"type": "m.room.member", "stateKey": "=muted"}),
		may("", forbidden, obj{"x": "y"}).at(map[string]string{"type": "test.state", "stateKey": "=banned"}),
	},
	"PUT " + v3 + "/rooms/{roomID}/typing/{userID}": {
		may("mine", forbidden, obj{"typing": true}),
		may("", forbidden, obj{"typing": true}).at(map[string]string{"userID": "=outsider"}),
		may("", forbidden, obj{"typing": true}).at(map[string]string{"userID": "=banned"}),
	},
	"PUT " + v3 + "/sendToDevice/{type}/{txnID}": {theirs.at(typ("test.message")).send(func(w *world, _ *fleettest.User) any {
		return obj{"messages": obj{w.people["outsider"].ID: obj{"*": obj{"x": "y"}}}}
	})},
	"GET " + v3 + "/sync": {
		theirs.seenBy("members"),
		theirs.ask("full_state=true&filter=%7B%22room%22%3A%7B%22include_leave%22%3Atrue%2C%22timeline%22%3A%7B%22limit%22%3A100%7D%7D%7D").
			seenBy("members"),
	},

	"DELETE " + msc3391 + "/account_data/{type}":                         {ownUser.at(typ("test.gone"))},
	"DELETE " + msc3391 + "/rooms/{roomID}/account_data/{type}":          {ownUser.at(typ("test.gone"))},
	"DELETE " + v3 + "/user/{userID}/account_data/{type}":                {ownUser.at(typ("test.gone"))},
	"DELETE " + v3 + "/user/{userID}/rooms/{roomID}/account_data/{type}": {ownUser.at(typ("test.gone"))},
	"GET " + v3 + "/user/{userID}/account_data/m.push_rules":             {ownUser},
	"GET " + v3 + "/user/{userID}/account_data/{type}":                   {ownUser.at(typ("test.data"))},
	"PUT " + v3 + "/user/{userID}/account_data/{type}":                   {ownUser.at(typ("test.data")).sendJSON(obj{"x": "mine"})},
	"POST " + v3 + "/user/{userID}/filter":                               {ownUser.sendJSON(obj{})},
	"GET " + v3 + "/user/{userID}/filter/{filterID}":                     {ownUser},
	"POST " + v3 + "/user/{userID}/openid/request_token":                 {ownUser.sendJSON(obj{})},
	"GET " + v3 + "/user/{userID}/rooms/{roomID}/account_data/{type}":    {ownUser.at(typ("test.data"))},
	"PUT " + v3 + "/user/{userID}/rooms/{roomID}/account_data/{type}":    {ownUser.at(typ("test.data")).sendJSON(obj{"x": "mine"})},
	"GET " + v3 + "/user/{userID}/rooms/{roomID}/tags":                   {ownUser},
	"PUT " + v3 + "/user/{userID}/rooms/{roomID}/tags/{tag}":             {ownUser.sendJSON(obj{"order": 0.5})},
	"DELETE " + v3 + "/user/{userID}/rooms/{roomID}/tags/{tag}":          {ownUser},
	"GET /_matrix/client/versions":                                       {anybody},
}
