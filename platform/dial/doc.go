// Package dial makes connections to addresses that users or other servers choose: push gateways, pictures to be
// previewed, other homeservers. It reaches the public internet and nothing else, so that nobody outside can make this
// process ask what only its own network may ask.
//
// Invariants:
//   - The address is checked when the connection is made, after the name was resolved, for each address of the name and
//     for each redirect. Between check and connection no name is looked up again.
//   - What is not known to be public is refused. Of IPv6 only 2000::/3 is public, so each form in which an IPv4 address
//     can be wrapped (mapped, compatible, translated, NAT64) is refused without a list of them; those inside it (6to4,
//     Teredo) are listed.
//   - No proxy of the environment is used: it would make the connection, and check nothing.
//
// The fleet's own connections (database, Redis, S3, between processes) go where the configuration says and do not use it.
package dial
