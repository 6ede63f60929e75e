// Package bench is a load generator for any Matrix homeserver: it registers users, makes rooms, sends and
// reads through the client-server API, and checks that every member got every message exactly once and
// in order.
//
// Calibrate runs all loads and turns what the server's processes took into capacities for package plan.
//
// Latencies are kept in HDR histograms with 3 digits. A message's delivery time runs from just before its
// request is written to the moment a receiver has read the answer that carries it.
package bench
