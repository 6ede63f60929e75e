package syncapi

import (
	"github.com/prometheus/client_golang/prometheus"

	"lyceum/platform/domain"
	"lyceum/platform/role"
)

// Domain is the declaration of the package.
var Domain = domain.Domain{
	Name: "sync", Config: domain.Configured[Config]("What clients wait for."),
	Roles: []role.Role{
		{Name: "sync", Purpose: "keeps clients up to date from memory", Key: "user", Serves: "/sync"},
	},
}

// Metrics implements domain.Measured.
func (s *Sync) Metrics() []prometheus.Collector { return []prometheus.Collector{s.work} }
