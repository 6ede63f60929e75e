package rpc

import (
	"crypto/tls"
	"net/http"
)

// ServerTLS are the settings of a listener of a version that speaks HTTP only.
func ServerTLS(n *Node) *tls.Config {
	c := n.server.TLSConfig.Clone()
	c.NextProtos = []string{"h2", "http/1.1"}
	return c
}

// ReadHeaders reads what AppendHeaders wrote.
func ReadHeaders(data []byte) (http.Header, bool) {
	t := text{rest: string(data)}
	h := t.headers()
	return h, !t.bad
}

// AppendHeaders writes headers as they go over the wire.
func AppendHeaders(h http.Header) []byte { return appendHeaders(nil, h) }
