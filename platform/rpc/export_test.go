package rpc

import "crypto/tls"

// ServerTLS are the settings of a listener of a version that speaks HTTP only.
func ServerTLS(n *Node) *tls.Config {
	c := n.server.TLSConfig.Clone()
	c.NextProtos = []string{"h2", "http/1.1"}
	return c
}
