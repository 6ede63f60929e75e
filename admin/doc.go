// Package admin serves the tools of operators. It has the status page of the fleet, with the data behind it: what
// every process and engine does (platform/status), what the load of the moment needs (plan) and what
// is wrong (doctor); and what users reported (rooms). It has no tables, no streams and no background work.
//
// The page itself holds no data and is open to all; every question it asks needs the token of an
// administrator of the server.
package admin
