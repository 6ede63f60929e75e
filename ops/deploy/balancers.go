package deploy

import "lyceum/ops/deploy/proxy"

// Balancer is what the configuration of a load balancer is made from.
type Balancer = proxy.Input

// Backend is where the processes of a role listen to clients.
type Backend = proxy.Backend

// HAProxy renders a configuration for HAProxy 2.6 or newer.
func HAProxy(in Balancer) ([]byte, error) { return proxy.HAProxy(in) }

// Nginx renders a configuration for nginx 1.22 or newer.
func Nginx(in Balancer) ([]byte, error) { return proxy.Nginx(in) }

// Caddy renders a Caddyfile for Caddy 2.6 or newer.
func Caddy(in Balancer) ([]byte, error) { return proxy.Caddy(in) }

// Gateway renders HTTPRoutes of the Kubernetes Gateway API v1.
func Gateway(in Balancer) ([]byte, error) { return proxy.Gateway(in) }
