package fleet

import (
	"context"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"lyceum/platform/status"
)

// engineMetrics are the metrics of the database, the clock and the disk of a process.
type engineMetrics struct{ p *Process }

var (
	connectionsDesc = prometheus.NewDesc("lyceum_database_connections", "Connections of this process to the database, by state (in_use, "+
		"idle, max).", []string{"state"}, nil)
	clockDesc    = prometheus.NewDesc("lyceum_clock_ahead_seconds", "This process's clock minus the database's.", nil, nil)
	scratchDesc  = prometheus.NewDesc("lyceum_scratch_free_bytes", "Free space in the file system of server.data.", nil, nil)
	poolWaitDesc = prometheus.NewDesc("lyceum_database_wait_seconds_total", "Time that requests waited for a connection.", nil, nil)
)

// Describe implements prometheus.Collector.
func (engineMetrics) Describe(ch chan<- *prometheus.Desc) {
	ch <- connectionsDesc
	ch <- poolWaitDesc
	ch <- clockDesc
	ch <- scratchDesc
}

// Collect implements prometheus.Collector.
func (c engineMetrics) Collect(ch chan<- prometheus.Metric) {
	s := c.p.db.Stats()
	for state, n := range map[string]int{"in_use": s.InUse, "idle": s.Idle, "max": s.MaxOpenConnections} {
		ch <- prometheus.MustNewConstMetric(connectionsDesc, prometheus.GaugeValue, float64(n), state)
	}
	ch <- prometheus.MustNewConstMetric(poolWaitDesc, prometheus.CounterValue, s.WaitDuration.Seconds())
	ctx, cancel := context.WithTimeout(context.Background(), time.Second)
	defer cancel()
	ch <- prometheus.MustNewConstMetric(clockDesc, prometheus.GaugeValue, status.ClockAhead(ctx, c.p.db))
	_, free := status.FileSystem(c.p.config.Server.Data)
	ch <- prometheus.MustNewConstMetric(scratchDesc, prometheus.GaugeValue, float64(free))
}
