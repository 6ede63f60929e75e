//go:build !unix

package web

import "net"

// isGone can not be told here: whoever went away is noticed when the answer is sent.
func isGone(net.Conn) bool { return false }
