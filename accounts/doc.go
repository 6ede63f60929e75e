// Package accounts owns the local users: passwords, sessions and tokens, profiles, account data, filters, registration and what the
// server says about itself (versions, capabilities, well-known).
//
// A request with an access token is authenticated by this chain of functions. Each is called by the one before it:
//
//	Accounts.Authenticate  authenticate.go   called by package web for each route that needs a user; refuses locked users
//	authenticate           authenticate.go   looks into the cache, then checks the token's checksum, then reads the database
//	sessions.get, put      session_cache.go  the sessions that this process remembers, which follow the stream "sessions"
//	loadSession            store_tokens.go   the session of a token in the database
//
// A change of a user's sessions, rights or profile is this chain, from the request to the row:
//
//	putLock, postLogout, … http_*.go          read the request
//	Accounts.change        accounts.go        a function that role.Owned made: it calls changeAtOwner on the owner of the user's shard
//	changeAtOwner          sessions.go        appends a row to the stream "sessions" and waits until it is stored
//	sessionStore.Insert    store_sessions.go  runs applyChange in the transaction that stores the row, and adds the follow-up
//	doFollowUp             followups.go       work in other packages, such as the clean-up after removed devices
//
// A log-in ends no token when its device is new, so it needs no owner. Only with a device id that the client chose, which may exist
// already, is it a change (changeLogin) as above. The usual chain is shorter:
//
//	postLogin              http_session.go    checks the password with checkPassword
//	login                  login.go           makes the device id and the tokens
//	newLogin.apply         login.go           stores device and tokens in one transaction, run by db.Settle
//	notifyDeviceAdded      login.go           tells the other packages about the device, before the request is answered
//
// Tables: users, user_devices (a device is one log-in), tokens, session_changes, account_news, login_addresses,
// interactive_sessions, registration_tokens, used_nonces, secrets, profile_fields, profile_names, old_profiles, account_data,
// filters, openid_tokens. Two stored names are from an earlier version: the rows of account_news are follow-ups (type followUp), and
// the column of users that cleanupColumn names says that the clean-up after a deactivation is pending (user.pendingCleanup).
//
// Streams:
//   - "sessions" (4 shards, key user id) says that a user's tokens, rights, profile or erasure changed. Its table keeps the newest
//     change of each user.
//   - "account_data" (16 shards, key user id) is the compacted table account_data itself.
//
// Role: accountdata, whose processes share the shards of both streams. Processes of the role client serve the other endpoints. One
// job runs in one process of the fleet: accounts.housekeeping.
//
// Invariants:
//   - Tokens and passwords are never stored readable: a token as SHA-256, a password as argon2id.
//   - A change that makes a token invalid goes through the owner of the user's shard of "sessions", in the transaction that writes
//     the stream. So no process accepts an old token after the change was acknowledged, though Authenticate asks the database only
//     for tokens that the process does not remember.
//   - A device has only the tokens of its newest log-in. A transaction that writes tokens of a device locks the row of the device.
//   - A device with the id of a removed one is created only after the clean-up of that one (design/013).
//   - A user name is used once: the row of a deactivated user stays.
//   - Account data is written by the owner of the user's shard, so reading and changing tags is atomic.
//
// The main types, in reading order:
//
//	Accounts           the domain; Deps are its dependencies, Config is its section of the configuration
//	user               a row of users; User is what an operator sees
//	Device             a log-in of a user; loginDevice is the device of a request to log in
//	tokenPair          an access token and its refresh token, as stored
//	session            a valid access token, as a process remembers it
//	sessionChange      a request to the owner of a user's shard; sessionResult is its answer, pendingChange both on the way to the store
//	followUp           work that a change leaves for other packages; pendingCleanup is one after removed devices
//	interaction        a user-interactive authentication; Proof shows that a user confirmed an operation with the password
//	passwordAttempt    one check of a password, counted against the limits
//	RegistrationToken  a token with which people register
//	AccountDatum       one event of account data; dataWrite is a request to change it, userData all of a user in memory
//	Profile            name and avatar of a user; ProfileCopy is where a version of it was copied to
package accounts
