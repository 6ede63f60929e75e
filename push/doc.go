// Package push owns notifications: push rules, unread counts, and pushers with what is sent to their gateways.
//
// Rules are stored as the changes of a user to the default rules, as account data m.push_rules. Changes run on the owner of the user's
// shard of the stream account_data (ruleset.go). Rules are compiled once for each user (compile.go).
//
// Unread counts are computed in memory (unread.go): the events after the user's receipts are evaluated when the user asks. Nothing is
// written for a message and a receiver. Logs of the newest events of the rooms that were asked for keep the counts current without the
// database (counts.go).
//
// Sending a notification, from the row of an event to the gateway, is this chain of functions. Each is called by the one before it:
//
//	Push.sendBatch        consumer.go      takes a batch of one shard of the stream events
//	Push.collect          consumer.go      makes the notifications of its events: for each receiver (receivers.go) that the rules notify
//	                                       (notification.go)
//	Push.send             send.go          starts sends while there are slots, and waits for them as long as some succeed
//	sendSlots.acquire     slots.go         gives out a slot by the trust that gateway, pusher and user have
//	Push.start            send.go          sends in the background
//	Push.deliver          send.go          sends once: prepare, then post
//	Push.prepare          send.go          makes the body; for a row of the outbox it reads the event again and asks the rules again
//	Push.post             send.go          asks the gateway (gateway.go) and records how it went (recordOutcome, health.go)
//	Push.toOutbox         send.go          for what was not sent: sendBatch writes it to the outbox when the cursor moves
//	Push.retryOutbox      outbox.go        the consumer calls it from time to time; it sends what is due, with the same functions from
//	                                       acquire on
//
// A device that shows a number of unread notifications is told when all is read (badges.go).
//
// Tables: pushers, pusher_changes (one row that counts changes), push_outbox (notifications that no gateway has taken yet).
//
// Consumer: push, of the stream events. For each shard one process of the role holds a lease, with a cursor up to which notifications were
// sent or stored, so none is lost when a process dies.
//
// Role: push. Processes of the role accountdata answer requests for rules, those of the role client the others.
//
// Invariants:
//   - Slow gateways and pushers delay no others: each trust level has slots of its own, and a slow send in flight moves to the lowest
//     level. A gateway that many users share becomes suspect only when it is slow for most of them (verdicts.go).
//   - A gateway that can not be connected to backs off for growing pauses up to 5 minutes, and so does a pusher whose notifications the
//     gateway answers with an error or not at all (health.go). Meanwhile nothing is read for them; after each pause one send probes.
//   - A notification comes twice only when the gateway may have taken it and that is not stored: it answered with an error or not in time;
//     or the process died, lost its lease or did not reach the database between the answer and the write. A batch of more than 10,000
//     notifications is done again as a whole when a later part can not be read or stored.
//
// The main types, in reading order:
//
//	rule, ruleset     push rules of the specification; stored are a user's changes
//	Rules, condition  compiled rules; Subject is an event and Facts is the room that they are evaluated for
//	userCount         the unread count of a user in a room; roomLog has the newest events of a room, with its counts
//	pusher            a Pusher of the specification
//	notification      an event for a pusher; delivery is one that is being sent, outboxEntry one for the outbox
//	slot, trustLevel  what a send takes while it is in flight; how it is expected to go
//	health            how a gateway, a user or a pusher did lately; outcome is how a send ended
//	gatewayVerdicts   for which users a gateway was slow
//	senderState       what a process that sends keeps: receivers by room, and when the outboxes are due
package push
