//go:build !unix

package web

import "net"

// isGone is not known on this system: a client that left is noticed when the answer is sent.
func isGone(net.Conn) bool { return false }

// hasBytes is not known on this system: a request that comes while its connection is closed is lost.
func hasBytes(net.Conn) bool { return false }
