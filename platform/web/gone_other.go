//go:build !unix

package web

import "net"

// isGone can not be told here: whoever went away is noticed when the answer is sent.
func isGone(net.Conn) bool { return false }

// hasBytes can not be told here: a request that comes while its connection is closed is lost.
func hasBytes(net.Conn) bool { return false }
