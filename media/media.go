package media

import (
	"context"
	"embed"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"sync"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"golang.org/x/sync/singleflight"

	"lyceum/matrix"
	"lyceum/platform/blob"
	"lyceum/platform/db"
	"lyceum/platform/obs"
	"lyceum/platform/role"
)

//go:embed migrations/*.sql
var migrations embed.FS

// Migrations are the schema of the package.
func Migrations() db.Migrations { return db.Migrations{Domain: "media", Files: migrations} }

// WorkerCommand is the hidden subcommand of the binary that must call WorkerMain.
const WorkerCommand = "media-worker"

// Deps are what media stands on. Process, Blob and ServerName are required.
type Deps struct {
	Process    *role.Process
	Blob       blob.Store
	ServerName string
	Worker     []string         // command line that runs WorkerMain; nil is this binary with WorkerCommand
	Now        func() time.Time // the clock; nil is obs.Now
}

// Media is the domain. It is safe for concurrent use.
type Media struct {
	config  Config
	process *role.Process
	db      *db.DB
	blob    blob.Store
	server  string
	log     *slog.Logger
	now     func() time.Time
	metrics *metrics
	waiters waiters
	workers *workers
	uploads locks // of media ids whose file is stored now

	inProgress singleflight.Group
	making     sync.WaitGroup
	life       context.Context // of the work that outlives the request that began it
}

// New opens the background parts. It reads nothing from the database.
func New(d Deps, c Config) (*Media, error) {
	if !matrix.ValidServerName(d.ServerName) {
		return nil, fmt.Errorf("media: expected a server name, found %q", d.ServerName)
	}
	if d.Process == nil || d.Blob == nil {
		return nil, errors.New("media: expected a process and a blob store, found none")
	}
	if d.Now == nil {
		d.Now = obs.Now
	}
	if len(d.Worker) == 0 {
		self, err := os.Executable()
		if err != nil {
			return nil, fmt.Errorf("media: find this program, which decodes pictures: %w", err)
		}
		d.Worker = []string{self, WorkerCommand}
	}
	life, end := context.WithCancel(context.Background())
	m := &Media{
		config: c.withDefaults(), process: d.Process, db: d.Process.DB, blob: d.Blob, server: d.ServerName,
		log: d.Process.Log.With("domain", "media"), now: d.Now, metrics: newMetrics(), life: life,
	}
	m.workers = newWorkers(d.Worker, m.config.Thumbnails, m.log)
	unsubscribe := d.Process.Bus.Subscribe(uploadedTopic, m.waiters.uploaded)
	d.Process.Go("media.end", func(ctx context.Context) error {
		<-ctx.Done()
		end()
		unsubscribe()
		m.making.Wait()
		return nil
	})
	d.Process.Singleton("media.expire", m.expire)
	return m, nil
}

func (m *Media) nowMs() int64 { return m.now().UnixMilli() }

// expire removes media ids that were made ahead and got no file. One process of the fleet runs it.
func (m *Media) expire(ctx context.Context, job *role.Job) error {
	tick := time.NewTicker(10 * time.Minute)
	defer tick.Stop()
	for {
		if err := m.removeExpired(ctx, job); err != nil {
			return err
		}
		select {
		case <-ctx.Done():
			return nil
		case <-tick.C:
		}
	}
}

// metrics count files and bytes.
type metrics struct {
	files      *prometheus.CounterVec
	bytes      *prometheus.CounterVec
	thumbnails *prometheus.CounterVec
	decoding   prometheus.Histogram
}

func newMetrics() *metrics {
	return &metrics{
		files: prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: "lyceum_media_files_total", Help: "Files, by what was done (uploaded, downloaded, thumbnail, redirected).",
		}, []string{"done"}),
		bytes: prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: "lyceum_media_bytes_total", Help: "Bytes of these files.",
		}, []string{"done"}),
		thumbnails: prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: "lyceum_media_thumbnails_total", Help: "Thumbnails that had to be made, by result (made, original, unsupported, broken, " +
				"too_large, crashed, refused, failed).",
		}, []string{"result"}),
		decoding: prometheus.NewHistogram(prometheus.HistogramOpts{
			Name: "lyceum_media_decoding_seconds", Help: "Time of the process that decodes one picture.",
			Buckets: []float64{.02, .05, .1, .25, .5, 1, 2.5, 5, 10, 20},
		}),
	}
}

// Metrics implements domain.Measured.
func (m *Media) Metrics() []prometheus.Collector {
	return []prometheus.Collector{m.metrics.files, m.metrics.bytes, m.metrics.thumbnails, m.metrics.decoding}
}

func (m *metrics) count(done string, bytes int64) {
	m.files.WithLabelValues(done).Inc()
	m.bytes.WithLabelValues(done).Add(float64(bytes))
}
