// Package accounts owns the local users: passwords, sessions and tokens, profiles, account data,
// filters, registration and what the server says about itself (versions, capabilities, well-known).
//
// Tables: users, user_devices (a device is one login), tokens, session_changes, interactive_sessions,
// registration_tokens, used_nonces, secrets, profile_fields, profile_names, account_data, filters, openid_tokens.
//
// Streams: "sessions" (4 shards, key user id) tells every process that a user's tokens, rights or
// standing changed; its table keeps the newest change of each user. "account_data" (16 shards, key user
// id) is the compacted table account_data itself.
//
// Invariants:
//   - Tokens and passwords are never stored readable: a token as SHA-256, a password as argon2id.
//   - Whatever makes a token invalid goes through the owner of the user's shard of "sessions", in the
//     transaction that writes the stream. So no process answers an old token once the change was
//     acknowledged, though Authenticate asks the database only for tokens it does not know.
//   - A device has the tokens of its newest log-in alone. Whoever writes tokens of a device has locked its row.
//   - A device is made with the id of one that was removed when what that one left is gone (design/013).
//   - A name is used once: the row of a deactivated user stays.
//   - Account data is written by the owner of the user's shard, so reading and changing tags is one step.
package accounts
