// Package proxy renders the routing of a fleet for load balancers that exist already: HAProxy, nginx, Caddy
// and the Gateway API of Kubernetes.
//
// All come from the table of routes (web.Route), so they say what platform/router does: which role serves a
// request, which key balances it, how long its answer may take, how large its body may be. The table becomes
// an ordered list of rules, the most specific first; the first that matches decides, and what none matches
// goes to the default backend. Rules that would change nothing are left out.
//
// A request sent to the wrong process still succeeds, one hop later. So the rules are for speed, and a file
// that is older than the binary loses nothing.
package proxy
