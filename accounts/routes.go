package accounts

import "lyceum/platform/web"

const (
	clientRole = "client"
	adminRole  = "admin"
	dataRole   = "accountdata"
	client     = "/_matrix/client/v3"
)

// Routes are the endpoints of the package.
func (a *Accounts) Routes() []web.Route {
	const msc3391 = "/_matrix/client/unstable/org.matrix.msc3391/user/{userID}"
	const user, room = client + "/user/{userID}", client + "/user/{userID}/rooms/{roomID}"
	return []web.Route{
		{Pattern: "GET /{$}", Auth: web.None, Role: clientRole, Limit: "public", Handler: a.getWelcome, Page: a.refuseWelcome},
		{Pattern: "POST /{$}", Auth: web.None, Role: clientRole, Limit: "registration", MaxBody: 16 << 10, Handler: a.postWelcome, Page: a.refuseWelcome},
		{Pattern: "GET /_matrix/client/versions", Auth: web.None, Role: clientRole, Limit: "public", Handler: a.getVersions},
		{Pattern: "GET /.well-known/matrix/client", Auth: web.None, Role: clientRole, Limit: "public", Handler: a.getClientWellKnown},
		{Pattern: "GET /.well-known/matrix/server", Auth: web.None, Role: clientRole, Limit: "public", Handler: a.getServerWellKnown},
		{Pattern: "GET /.well-known/matrix/support", Auth: web.None, Role: clientRole, Limit: "public", Handler: a.getSupport},
		{Pattern: "GET " + client + "/capabilities", Auth: web.Guest, Role: clientRole, Limit: "read", Handler: a.getCapabilities},

		{Pattern: "GET " + client + "/login", Auth: web.None, Role: clientRole, Limit: "public", Handler: a.getLogin},
		{Pattern: "POST " + client + "/login", Auth: web.None, Role: clientRole, Limit: "login", Handler: web.JSON(a.postLogin)},
		{Pattern: "POST " + client + "/refresh", Auth: web.None, Role: clientRole, Limit: "public", Handler: web.JSON(a.postRefresh)},
		{Pattern: "POST " + client + "/logout", Auth: web.None, Role: clientRole, Limit: "public", EmptyBody: true, Handler: a.postLogout},
		{Pattern: "POST " + client + "/logout/all", Auth: web.None, Role: clientRole, Limit: "public", EmptyBody: true, Handler: a.postLogoutAll},
		{Pattern: "GET " + client + "/account/whoami", Auth: web.Guest, Role: clientRole, Limit: "read", Handler: a.whoami},

		{Pattern: "POST " + client + "/register", Auth: web.None, Role: clientRole, Limit: "registration", Handler: a.postRegister},
		{Pattern: "GET " + client + "/register/available", Auth: web.None, Role: clientRole, Limit: "registration", Handler: a.getAvailable},
		{Pattern: "GET /_matrix/client/v1/register/m.login.registration_token/validity", Auth: web.None, Role: clientRole, Limit: "registration", Handler: a.getTokenValidity},
		{Pattern: "GET /_synapse/admin/v1/register", Auth: web.None, Role: adminRole, Limit: "registration", Handler: a.getNonce},
		{Pattern: "POST /_synapse/admin/v1/register", Auth: web.None, Role: adminRole, Limit: "registration", Handler: web.JSON(a.postSecretRegister)},
		{Pattern: "GET " + client + "/auth/{type}/fallback/web", Auth: web.None, Role: clientRole, Limit: "public", Handler: a.getFallback, Page: a.refuseFallback},
		{Pattern: "POST " + client + "/auth/{type}/fallback/web", Auth: web.None, Role: clientRole, Limit: "login", MaxBody: 16 << 10, Handler: a.postFallback, Page: a.refuseFallback},

		{Pattern: "POST " + client + "/account/password", Auth: web.User, Role: clientRole, Limit: "login", Handler: Resumable(a, a.postPassword)},
		{Pattern: "POST " + client + "/account/deactivate", Auth: web.User, Role: clientRole, Limit: "login", Handler: Resumable(a, a.postDeactivate)},
		{Pattern: "GET " + client + "/account/3pid", Auth: web.User, Role: clientRole, Limit: "read", Handler: a.getThreepids},
		{Pattern: "GET " + client + "/admin/whois/{userID}", Auth: web.User, Role: adminRole, Limit: "read", Handler: a.whois},
		{Pattern: "GET /_matrix/client/v1/admin/lock/{userID}", Auth: web.Admin, Role: adminRole, Limit: "admin", Handler: a.getLock},
		{Pattern: "PUT /_matrix/client/v1/admin/lock/{userID}", Auth: web.Admin, Role: adminRole, Limit: "admin", Handler: web.JSON(a.putLock)},
		{Pattern: "GET /_matrix/client/v1/admin/suspend/{userID}", Auth: web.Admin, Role: adminRole, Limit: "admin", Handler: a.getSuspend},
		{Pattern: "PUT /_matrix/client/v1/admin/suspend/{userID}", Auth: web.Admin, Role: adminRole, Limit: "admin", Handler: web.JSON(a.putSuspend)},

		{Pattern: "GET " + client + "/profile/{userID}", Auth: web.None, Role: clientRole, Limit: "public", Handler: a.getProfile},
		{Pattern: "GET " + client + "/profile/{userID}/{field}", Auth: web.None, Role: clientRole, Limit: "public", Handler: a.getProfileField},
		{Pattern: "PUT " + client + "/profile/{userID}/{field}", Auth: web.Guest, Role: clientRole, Limit: "write", Handler: web.JSON(a.putProfileField)},
		{Pattern: "DELETE " + client + "/profile/{userID}/{field}", Auth: web.User, Role: clientRole, Limit: "write", Handler: a.deleteProfileField},

		{Pattern: "GET " + user + "/account_data/{type}", Auth: web.User, Role: dataRole, Key: web.KeyPath("userID"), Limit: "read", Handler: a.getData},
		{Pattern: "PUT " + user + "/account_data/{type}", Auth: web.User, Role: dataRole, Key: web.KeyPath("userID"), Limit: "write", Handler: a.putDataType},
		{Pattern: "GET " + room + "/account_data/{type}", Auth: web.User, Role: dataRole, Key: web.KeyPath("userID"), Limit: "read", Handler: a.getData},
		{Pattern: "PUT " + room + "/account_data/{type}", Auth: web.User, Role: dataRole, Key: web.KeyPath("userID"), Limit: "write", Handler: a.putDataType},
		{Pattern: "DELETE " + user + "/account_data/{type}", Auth: web.User, Role: dataRole, Key: web.KeyPath("userID"), Limit: "write", Handler: a.deleteDataType},
		{Pattern: "DELETE " + room + "/account_data/{type}", Auth: web.User, Role: dataRole, Key: web.KeyPath("userID"), Limit: "write", Handler: a.deleteDataType},
		{Pattern: "DELETE " + msc3391 + "/account_data/{type}", Auth: web.User, Role: dataRole, Key: web.KeyPath("userID"), Limit: "write", Handler: a.deleteDataType},
		{Pattern: "DELETE " + msc3391 + "/rooms/{roomID}/account_data/{type}", Auth: web.User, Role: dataRole, Key: web.KeyPath("userID"), Limit: "write", Handler: a.deleteDataType},
		{Pattern: "GET " + room + "/tags", Auth: web.User, Role: dataRole, Key: web.KeyPath("userID"), Limit: "read", Handler: a.getTags},
		{Pattern: "PUT " + room + "/tags/{tag}", Auth: web.User, Role: dataRole, Key: web.KeyPath("userID"), Limit: "write", EmptyBody: true, Handler: a.putTag},
		{Pattern: "DELETE " + room + "/tags/{tag}", Auth: web.User, Role: dataRole, Key: web.KeyPath("userID"), Limit: "write", Handler: a.deleteTag},
		{Pattern: "POST " + user + "/filter", Auth: web.User, Role: clientRole, Limit: "write", Idempotent: true, Handler: a.postFilter},
		{Pattern: "GET " + user + "/filter/{filterID}", Auth: web.User, Role: clientRole, Limit: "read", Handler: a.getFilter},
		{Pattern: "POST " + user + "/openid/request_token", Auth: web.User, Role: clientRole, Limit: "openid", EmptyBody: true, Handler: web.JSON(a.requestOpenID)},
	}
}
