package push

import (
	"lyceum/platform/web"
)

// Routes are the endpoints of the package.
func (p *Push) Routes() []web.Route {
	const client, global = "/_matrix/client/v3", "/_matrix/client/v3/pushrules/global"
	const part = client + "/pushrules/{part...}"
	const one = global + "/{kind}/{ruleID}"
	return []web.Route{
		{Pattern: "GET " + client + "/pushrules/{$}", Auth: web.User, Role: "accountdata", Key: web.KeyUser, Limit: "read", Handler: p.getRules},
		{Pattern: "GET " + client + "/pushrules", Auth: web.User, Role: "accountdata", Key: web.KeyUser, Limit: "read", Handler: p.getRules},
		{Pattern: "GET " + part, Auth: web.User, Role: "accountdata", Key: web.KeyUser, Limit: "read", Handler: p.getPart},
		{Pattern: "PUT " + part, Auth: web.User, Role: "accountdata", Key: web.KeyUser, Limit: "write", Handler: p.changePart},
		{Pattern: "DELETE " + part, Auth: web.User, Role: "accountdata", Key: web.KeyUser, Limit: "write", Handler: p.changePart},
		{Pattern: "GET " + global, Auth: web.User, Role: "accountdata", Key: web.KeyUser, Limit: "read", Handler: p.getGlobal},
		{Pattern: "GET " + global + "/{$}", Auth: web.User, Role: "accountdata", Key: web.KeyUser, Limit: "read", Handler: p.getGlobal},
		{Pattern: "GET " + one, Auth: web.User, Role: "accountdata", Key: web.KeyUser, Limit: "read", Handler: p.getRule},
		{Pattern: "PUT " + one, Auth: web.User, Role: "accountdata", Key: web.KeyUser, Limit: "write", Handler: web.JSON(p.putRule)},
		{Pattern: "DELETE " + one, Auth: web.User, Role: "accountdata", Key: web.KeyUser, Limit: "write", Handler: p.deleteRule},
		{Pattern: "GET " + one + "/enabled", Auth: web.User, Role: "accountdata", Key: web.KeyUser, Limit: "read", Handler: p.getEnabled},
		{Pattern: "PUT " + one + "/enabled", Auth: web.User, Role: "accountdata", Key: web.KeyUser, Limit: "write", Handler: web.JSON(p.putEnabled)},
		{Pattern: "GET " + one + "/actions", Auth: web.User, Role: "accountdata", Key: web.KeyUser, Limit: "read", Handler: p.getActions},
		{Pattern: "PUT " + one + "/actions", Auth: web.User, Role: "accountdata", Key: web.KeyUser, Limit: "write", Handler: web.JSON(p.putActions)},
		// As account data the rules are whole too, not the differences that are stored.
		{Pattern: "GET " + client + "/user/{userID}/account_data/m.push_rules", Auth: web.User, Role: "accountdata", Key: web.KeyUser, Limit: "read", Handler: p.getAsAccountData},
		{Pattern: "GET " + client + "/pushers", Auth: web.User, Role: "client", Limit: "read", Handler: p.getPushers},
		{Pattern: "POST " + client + "/pushers/set", Auth: web.User, Role: "client", Limit: "write", Idempotent: true, Handler: web.JSON(p.setPusher)},
		{Pattern: "GET " + client + "/notifications", Auth: web.User, Role: "client", Key: web.KeyUser, Limit: "read", Handler: p.getNotifications},
	}
}
