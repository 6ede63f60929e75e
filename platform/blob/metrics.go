package blob

import (
	"context"
	"errors"
	"io"
	"time"

	"github.com/prometheus/client_golang/prometheus"
)

// Measured is a store whose calls are timed in lyceum_blob_seconds, by operation: to the first byte for get.
func Measured(s Store, r *prometheus.Registry) Store {
	m := &measured{Store: s, seconds: prometheus.NewHistogramVec(prometheus.HistogramOpts{
		Name: "lyceum_blob_seconds", Help: "Time of calls to the blob store, by operation and result (ok, failed).",
		Buckets: []float64{.001, .0025, .005, .01, .025, .05, .1, .25, .5, 1, 2.5, 10},
	}, []string{"operation", "result"})}
	r.MustRegister(m.seconds)
	if c, ok := s.(contentStore); ok {
		return &measuredContent{measured: m, content: c}
	}
	return m
}

type measured struct {
	Store
	seconds *prometheus.HistogramVec
}

func (m *measured) scratchDir() string {
	if s, ok := m.Store.(scratched); ok {
		return s.scratchDir()
	}
	return ""
}

func (m *measured) observe(operation string, start time.Time, err error) {
	result := "ok"
	if err != nil && !errors.Is(err, ErrNotFound) {
		result = "failed"
	}
	m.seconds.WithLabelValues(operation, result).Observe(time.Since(start).Seconds())
}

func (m *measured) Put(ctx context.Context, key string, r io.Reader, size int64) (int64, error) {
	start := time.Now()
	n, err := m.Store.Put(ctx, key, r, size)
	m.observe("put", start, err)
	return n, err
}

func (m *measured) Get(ctx context.Context, key string, offset, length int64) (io.ReadCloser, error) {
	start := time.Now()
	r, err := m.Store.Get(ctx, key, offset, length)
	m.observe("get", start, err)
	return r, err
}

func (m *measured) Stat(ctx context.Context, key string) (Info, error) {
	start := time.Now()
	info, err := m.Store.Stat(ctx, key)
	m.observe("stat", start, err)
	return info, err
}

func (m *measured) Delete(ctx context.Context, key string) error {
	start := time.Now()
	err := m.Store.Delete(ctx, key)
	m.observe("delete", start, err)
	return err
}

func (m *measured) List(ctx context.Context, prefix, after string, limit int) ([]Info, error) {
	start := time.Now()
	infos, err := m.Store.List(ctx, prefix, after, limit)
	m.observe("list", start, err)
	return infos, err
}

// measuredContent is measured for a contentStore.
type measuredContent struct {
	*measured
	content contentStore
}

func (m *measuredContent) putContent(ctx context.Context, prefix string, r *contentReader) (hash string, size int64, err error) {
	start := time.Now()
	hash, size, err = m.content.putContent(ctx, prefix, r)
	m.observe("put", start, err)
	return hash, size, err
}
