// Package webtest calls routes in the tests of domains, over the real server and without a network.
package webtest
