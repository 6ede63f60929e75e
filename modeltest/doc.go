// Package modeltest looks for faults of rooms, streams and leases by random histories over real engines.
//
// A history has one to three processes with all domains that /sync reads, over one PostgreSQL schema or SQLite file, and clients that
// send, retry, set state, change memberships, redact, make rooms, move receipts, type, are present, send to devices and read. Each
// operation is started and left until it ends or all stands still. Group commits wait until a step decides their fate (package dbfault);
// other steps cut connections, restart, kill or freeze a process, take it for dead, take its leases away, send its shards on a journey,
// keep answers to its reads, and delay, double or lose what the bus brings (package busfault). Queues, batches and memories are so small
// that a handful of steps reaches their ends. Steps are drawn by rapid.
//
// The oracle is the database. At each acknowledgement: what was promised is stored, once. After the faults: every
// operation ends; every room takes a message; /sync and /messages show what was acknowledged before they were asked, and
// nothing that is not stored; the rows of a shard have the positions 1, 2, 3, …; each event names the one stored before it; the
// state after each event can be read and is what the events before it make it; nobody acts on a membership that had ended;
// what was refused is not stored. Then all processes start again, and the rooms take a message once more.
//
// To run:
//
//	go test ./modeltest                                              a minute, all settings
//	LYCEUM_CHAOS=10m go test -timeout 60m ./modeltest                for longer; a part of make chaos
//	go test ./modeltest -run 'TestModel/postgres,_two_processes$'    one setting
//	go test ./modeltest -run TestModel/sqlite -rapid.seed=N          a history again, by the seed that its failure prints
//
// A failure prints the history as it was found, then a shorter one with the seed. The gates decide most of the
// order, not all: where rapid calls a failure flaky, the history as it was found tells more than the seed.
//
// TestUndoneCuresAreFound undoes each cure of a lost write or a damaged room in turn and demands that the histories of a
// setting miss it: add a line to its table for a cure that histories should hold.
//
//	LYCEUM_CHAOS=1m go test ./modeltest -timeout 60m -v -run TestUndone  some minutes; a part of make chaos
package modeltest
