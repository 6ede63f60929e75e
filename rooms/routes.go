package rooms

import "lyceum/platform/web"

const (
	clientRole = "client"
	eventsRole = "events"
	v3         = "/_matrix/client/v3"
	v1         = "/_matrix/client/v1"

	inviteLimit = "invite" // the rate limit that every invite takes
)

// Routes are the endpoints of the package.
func (r *Rooms) Routes() []web.Route {
	const room, room1 = v3 + "/rooms/{roomID}", v1 + "/rooms/{roomID}"
	byRoom := web.KeyPath("roomID")
	return []web.Route{
		{Pattern: "POST " + v3 + "/createRoom", Auth: web.User, Role: clientRole, Limit: "create", EmptyBody: true, Handler: web.JSON(r.postCreateRoom)},
		{Pattern: "GET " + v3 + "/joined_rooms", Auth: web.Guest, Role: clientRole, Limit: "read", Handler: r.getJoinedRooms},

		{Pattern: "POST " + v3 + "/join/{roomIDOrAlias}", Auth: web.Guest, Role: clientRole, Limit: "join", EmptyBody: true, Idempotent: true, Handler: web.JSON(r.postJoinAny)},
		{Pattern: "POST " + v3 + "/knock/{roomIDOrAlias}", Auth: web.User, Role: clientRole, Limit: "knock", EmptyBody: true, Handler: web.JSON(r.postKnock)},
		{Pattern: "POST " + room + "/join", Auth: web.Guest, Role: eventsRole, Key: byRoom, Limit: "join", EmptyBody: true, Idempotent: true, Handler: web.JSON(r.postJoin)},
		{Pattern: "POST " + room + "/invite", Auth: web.User, Role: eventsRole, Key: byRoom, Limit: inviteLimit, Handler: web.JSON(r.postInvite)},
		{Pattern: "POST " + room + "/leave", Auth: web.Guest, Role: eventsRole, Key: byRoom, Limit: "write", EmptyBody: true, Idempotent: true, Handler: web.JSON(r.postLeave)},
		{Pattern: "POST " + room + "/kick", Auth: web.User, Role: eventsRole, Key: byRoom, Limit: "write", Handler: web.JSON(r.postKick)},
		{Pattern: "POST " + room + "/ban", Auth: web.User, Role: eventsRole, Key: byRoom, Limit: "write", Idempotent: true, Handler: web.JSON(r.postBan)},
		{Pattern: "POST " + room + "/unban", Auth: web.User, Role: eventsRole, Key: byRoom, Limit: "write", Handler: web.JSON(r.postUnban)},
		{Pattern: "POST " + room + "/forget", Auth: web.Guest, Role: clientRole, Limit: "write", EmptyBody: true, Idempotent: true, Handler: r.postForget},

		{Pattern: "PUT " + room + "/send/{type}/{txnID}", Auth: web.Guest, Role: eventsRole, Key: byRoom, Limit: "message", Handler: r.putSend},
		{Pattern: "POST " + room + "/send/{type}", Auth: web.Guest, Role: eventsRole, Key: byRoom, Limit: "message", Idempotent: true, Handler: r.postSend},
		{Pattern: "PUT " + room + "/redact/{eventID}/{txnID}", Auth: web.User, Role: eventsRole, Key: byRoom, Limit: "redaction", EmptyBody: true, Handler: r.putRedact},
		{Pattern: "PUT " + room + "/state/{type}/{stateKey}", Auth: web.Guest, Role: eventsRole, Key: byRoom, Limit: "message", Handler: r.putState},
		{Pattern: "PUT " + room + "/state/{type}/{$}", Auth: web.Guest, Role: eventsRole, Key: byRoom, Limit: "message", Handler: r.putState},
		{Pattern: "PUT " + room + "/state/{type}", Auth: web.Guest, Role: eventsRole, Key: byRoom, Limit: "message", Handler: r.putState},
		{Pattern: "POST " + room + "/upgrade", Auth: web.User, Role: eventsRole, Key: byRoom, Limit: "create", Handler: web.JSON(r.postUpgrade)},

		{Pattern: "GET " + room + "/state", Auth: web.Guest, Role: clientRole, Limit: "read", Handler: r.getFullState},
		{Pattern: "GET " + room + "/state/{type}/{stateKey}", Auth: web.Guest, Role: clientRole, Limit: "read", Handler: r.getState},
		{Pattern: "GET " + room + "/state/{type}/{$}", Auth: web.Guest, Role: clientRole, Limit: "read", Handler: r.getState},
		{Pattern: "GET " + room + "/state/{type}", Auth: web.Guest, Role: clientRole, Limit: "read", Handler: r.getState},
		{Pattern: "GET " + room + "/members", Auth: web.Guest, Role: clientRole, Limit: "read", Handler: r.getMembers},
		{Pattern: "GET " + room + "/joined_members", Auth: web.Guest, Role: clientRole, Limit: "read", Handler: r.getJoinedMembers},
		{Pattern: "GET " + room + "/event/{eventID}", Auth: web.Guest, Role: clientRole, Limit: "read", Handler: r.getEvent},
		{Pattern: "GET " + room + "/messages", Auth: web.Guest, Role: clientRole, Limit: "read", Handler: r.getMessages},
		{Pattern: "GET " + room + "/context/{eventID}", Auth: web.Guest, Role: clientRole, Limit: "read", Handler: r.getContext},
		{Pattern: "GET " + room1 + "/timestamp_to_event", Auth: web.User, Role: clientRole, Limit: "read", Handler: r.getTimestampToEvent},
		{Pattern: "GET " + room1 + "/relations/{eventID}", Auth: web.User, Role: clientRole, Limit: "read", Handler: r.getRelations},
		{Pattern: "GET " + room1 + "/relations/{eventID}/{relType}", Auth: web.User, Role: clientRole, Limit: "read", Handler: r.getRelations},
		{Pattern: "GET " + room1 + "/relations/{eventID}/{relType}/{type}", Auth: web.User, Role: clientRole, Limit: "read", Handler: r.getRelations},
		{Pattern: "GET " + room1 + "/threads", Auth: web.User, Role: clientRole, Limit: "read", Handler: r.getThreads},
		{Pattern: "GET " + v1 + "/room_summary/{roomIDOrAlias}", Auth: web.Optional, Role: clientRole, Limit: "read", Handler: r.getRoomSummary},

		{Pattern: "GET " + room + "/aliases", Auth: web.User, Role: clientRole, Limit: "read", Handler: r.getRoomAliases},
		{Pattern: "GET " + v3 + "/directory/room/{alias}", Auth: web.None, Role: clientRole, Limit: "public", Handler: r.getAlias},
		{Pattern: "PUT " + v3 + "/directory/room/{alias}", Auth: web.User, Role: clientRole, Limit: "write", Handler: web.JSON(r.putAliasHTTP)},
		{Pattern: "DELETE " + v3 + "/directory/room/{alias}", Auth: web.User, Role: clientRole, Limit: "write", Handler: r.deleteAliasHTTP},
	}
}
