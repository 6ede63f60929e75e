package devices

import (
	"lyceum/accounts"
	"lyceum/platform/web"
)

const (
	clientRole = "client"
	client     = "/_matrix/client/v3"
	largeBody  = 16 << 20 // messages to all devices of a room, sessions of a backup
)

// Routes are the endpoints of the package.
func (x *Devices) Routes() []web.Route {
	routes := []web.Route{
		{Pattern: "GET " + client + "/devices", Auth: web.Guest, Role: clientRole, Limit: "read", Handler: x.getDevices},
		{Pattern: "GET " + client + "/devices/{deviceID}", Auth: web.Guest, Role: clientRole, Limit: "read", Handler: x.getDevice},
		{Pattern: "PUT " + client + "/devices/{deviceID}", Auth: web.Guest, Role: clientRole, Limit: "write", Handler: web.JSON(x.putDevice)},
		{Pattern: "DELETE " + client + "/devices/{deviceID}", Auth: web.User, Role: clientRole, Limit: "write", EmptyBody: true, Handler: accounts.Resumable(x.accounts, x.deleteDevice)},
		{Pattern: "POST " + client + "/delete_devices", Auth: web.User, Role: clientRole, Limit: "write", Handler: accounts.Resumable(x.accounts, x.deleteDevices)},

		{Pattern: "POST " + client + "/keys/upload", Auth: web.Guest, Role: "todevice", Key: web.KeyUser, Limit: "keys", EmptyBody: true, Handler: web.JSON(x.postUpload)},
		{Pattern: "POST " + client + "/keys/query", Auth: web.Guest, Role: clientRole, Limit: "keys", Idempotent: true, Handler: web.JSON(x.postQuery)},
		{Pattern: "POST " + client + "/keys/claim", Auth: web.Guest, Role: "todevice", Limit: "keys", Idempotent: true, Handler: web.JSON(x.postClaim)},
		{Pattern: "PUT " + client + "/sendToDevice/{type}/{txnID}", Auth: web.Guest, Role: "todevice", Limit: "keys", MaxBody: largeBody, Handler: web.JSON(x.putToDevice)},
		{Pattern: "POST " + client + "/keys/device_signing/upload", Auth: web.User, Role: "devicelists", Key: web.KeyUser, Limit: "keys", Handler: accounts.Resumable(x.accounts, x.postSigning)},
		{Pattern: "POST " + client + "/keys/signatures/upload", Auth: web.User, Role: "devicelists", Key: web.KeyUser, Limit: "keys", Idempotent: true, Handler: web.JSON(x.postSignatures)},
	}
	const version, keys = client + "/room_keys/version", client + "/room_keys/keys"
	routes = append(routes, []web.Route{
		{Pattern: "POST " + version, Auth: web.User, Role: clientRole, Limit: "keys", Handler: web.JSON(x.postBackup)},
		{Pattern: "GET " + version, Auth: web.User, Role: clientRole, Limit: "keys", Handler: x.getBackup},
		{Pattern: "GET " + version + "/{version}", Auth: web.User, Role: clientRole, Limit: "keys", Handler: x.getBackup},
		{Pattern: "PUT " + version + "/{version}", Auth: web.User, Role: clientRole, Limit: "keys", Handler: web.JSON(x.putBackup)},
		{Pattern: "DELETE " + version + "/{version}", Auth: web.User, Role: clientRole, Limit: "keys", Handler: x.removeBackup},
		{Pattern: "PUT " + keys, Auth: web.User, Role: clientRole, Limit: "keys", MaxBody: largeBody, Handler: web.JSON(x.putAllKeys)},
		{Pattern: "PUT " + keys + "/{roomID}", Auth: web.User, Role: clientRole, Limit: "keys", MaxBody: largeBody, Handler: web.JSON(x.putRoomKeys)},
		{Pattern: "PUT " + keys + "/{roomID}/{sessionID}", Auth: web.User, Role: clientRole, Limit: "keys", Handler: web.JSON(x.putSession)},
		{Pattern: "GET " + keys, Auth: web.User, Role: clientRole, Limit: "keys", Handler: x.getBackupKeys},
		{Pattern: "GET " + keys + "/{roomID}", Auth: web.User, Role: clientRole, Limit: "keys", Handler: x.getBackupKeys},
		{Pattern: "GET " + keys + "/{roomID}/{sessionID}", Auth: web.User, Role: clientRole, Limit: "keys", Handler: x.getSession},
		{Pattern: "DELETE " + keys, Auth: web.User, Role: clientRole, Limit: "keys", Handler: x.removeBackupKeys},
		{Pattern: "DELETE " + keys + "/{roomID}", Auth: web.User, Role: clientRole, Limit: "keys", Handler: x.removeBackupKeys},
		{Pattern: "DELETE " + keys + "/{roomID}/{sessionID}", Auth: web.User, Role: clientRole, Limit: "keys", Handler: x.removeBackupKeys},
	}...)
	if x.deps.SharedRooms != nil {
		routes = append(routes, web.Route{Pattern: "GET " + client + "/keys/changes", Auth: web.User, Role: clientRole, Limit: "keys", Handler: x.getChanges})
	}
	return routes
}
