// Package push owns what is worth a notification: push rules, unread counts, pushers.
//
// Tables: pushers, pusher_changes, push_outbox (notifications that a gateway did not take yet). Role: push.
//
// Rules are stored as what a user changed of the default set, as account data m.push_rules; changes run on the
// owner of the user's shard of the stream account_data. They are compiled once for each user (compile.go).
//
// Unread counts are computed in memory (unread.go): what came after the user's receipts is evaluated when the
// user asks. Nothing is written for a message and a receiver. Logs of the newest events of the rooms asked for,
// fed by the events stream, keep the counts current without the database.
//
// Pushers: for each shard of the events stream one process of the role holds the lease push/NN, whose position
// tells up to where notifications were sent or stored (worker.go). A process that dies loses none. Gateways that
// are slow hold up nobody else (places.go), and neither do slow pushers at a gateway that is prompt for others
// (tally.go). What is not sent at once is sent from the outbox (outbox.go). A gateway that
// can not be connected to, and a pusher whose notifications it answers with an error or not at all, are left alone for
// pauses that grow to 5 minutes (doubts.go): then one send tries it, and nothing is read for the others.
//
// A device that shows a number is told when all is read (badges.go).
//
// A notification comes twice only when the gateway may have taken it and that is not stored: its answer was an
// error or none within 10 s, or none within 3 s when the process ended; or the process died, lost its lease or
// did not reach the database between the answer and the write. A batch of more than 10,000 notifications, of
// which a later part could not be read or stored, is done again as a whole.
package push
