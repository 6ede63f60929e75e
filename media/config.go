package media

import (
	"cmp"
	"runtime"
	"time"

	"lyceum/platform/conf"
)

// Config is the section "media" of the configuration. Zero values in a Config made by hand are the defaults.
type Config struct {
	MaxUpload            conf.Size       `yaml:"max_upload" default:"50MiB" min:"1KiB" help:"Largest file that may be uploaded."`
	UploadIdle           conf.Duration   `yaml:"upload_idle" default:"60s" min:"1s" help:"Time an upload may stand still before it is refused."`
	PendingLife          conf.Duration   `yaml:"pending_life" default:"24h" min:"1m" help:"Time a media id that was made ahead waits for its file."`
	MaxPending           int             `yaml:"max_pending" default:"100" min:"1" help:"Media ids of one user that may wait for their files."`
	MaxWait              conf.Duration   `yaml:"max_wait" default:"60s" min:"1s" help:"Longest time a download waits for a file that is not uploaded yet."`
	AllowUnauthenticated bool            `yaml:"allow_unauthenticated" default:"false" help:"Serve downloads and thumbnails without a token too, under the deprecated paths of /_matrix/media. With a valid token they are always served there."`
	AllowRedirect        bool            `yaml:"allow_redirect" default:"false" help:"Send clients that allow it to the S3 store with a signed URL. The store then chooses the headers of the answer."`
	RedirectLife         conf.Duration   `yaml:"redirect_life" default:"5m" min:"10s" max:"7d" help:"Life of such a URL."`
	Thumbnails           ThumbnailConfig `yaml:"thumbnails" help:"Limits of the processes that decode pictures."`
}

// ThumbnailConfig bounds the work on one picture.
type ThumbnailConfig struct {
	Workers   int           `yaml:"workers" default:"0" min:"0" help:"Pictures decoded at once; 0 is one for each core."`
	Waiting   int           `yaml:"waiting" default:"200" min:"1" help:"Pictures that may wait for a worker before requests are refused."`
	Timeout   conf.Duration `yaml:"timeout" default:"20s" min:"1s" help:"Time one picture may take."`
	Memory    conf.Size     `yaml:"memory" default:"512MiB" min:"128MiB" help:"Memory one picture may take."`
	MaxSource conf.Size     `yaml:"max_source" default:"50MiB" min:"1KiB" help:"Largest file of which a thumbnail is made; at most a quarter of memory."`
	MaxPixels int64         `yaml:"max_pixels" default:"100000000" min:"1000" help:"Most pixels of a picture of which a thumbnail is made."`
	Retry     conf.Duration `yaml:"retry" default:"1h" help:"Time until a picture that failed is tried again."`
}

func (c Config) withDefaults() Config {
	c.MaxUpload = cmp.Or(c.MaxUpload, 50<<20)
	c.UploadIdle = cmp.Or(c.UploadIdle, conf.Duration(time.Minute))
	c.PendingLife = cmp.Or(c.PendingLife, conf.Duration(24*time.Hour))
	c.MaxPending = cmp.Or(c.MaxPending, 100)
	c.MaxWait = cmp.Or(c.MaxWait, conf.Duration(time.Minute))
	c.RedirectLife = cmp.Or(c.RedirectLife, conf.Duration(5*time.Minute))
	t := &c.Thumbnails
	t.Workers = cmp.Or(t.Workers, runtime.GOMAXPROCS(0))
	t.Waiting = cmp.Or(t.Waiting, 200)
	t.Timeout = cmp.Or(t.Timeout, conf.Duration(20*time.Second))
	t.Memory = cmp.Or(t.Memory, 512<<20)
	t.MaxSource = min(cmp.Or(t.MaxSource, 50<<20), t.Memory/4)
	t.MaxPixels = cmp.Or(t.MaxPixels, 100_000_000)
	t.Retry = cmp.Or(t.Retry, conf.Duration(time.Hour))
	return c
}
