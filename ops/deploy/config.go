package deploy

import (
	"crypto/rand"
	"encoding/hex"
	"fmt"
	"path"
	"slices"
	"strings"
	"time"

	"github.com/goccy/go-yaml"
)

// FreshSecrets makes the secrets of a new fleet, for engines that are new too. The URL of the database has
// to be put together with the password by the caller; see [Compose].
func FreshSecrets() Secrets {
	return Secrets{
		DatabaseURL: "postgres://lyceum:" + freshSecret() + "@postgres:5432/lyceum?sslmode=disable", RedisPassword: freshSecret(),
		S3SecretKey: freshSecret(), Fleet: freshSecret(),
	}
}

func freshSecret() string {
	b := make([]byte, 32)
	rand.Read(b) // never fails
	return hex.EncodeToString(b)
}

// Config is lyceum.yaml for all processes: what they have alike. Roles, the machine id and the address by which
// others reach a process come from its environment. secrets is the directory with the secret files.
func Config(in Input, secrets string) ([]byte, error) {
	in, err := in.complete()
	if err != nil {
		return nil, err
	}
	return in.config(place{secrets: secrets, everywhere: true, files: in.secretFiles(true)})
}

// place is where a configuration is for.
type place struct {
	secrets    string // directory of the secret files
	files      []secretFile
	everywhere bool // every process has an address of its own, so the listeners are the same ports in all
	alone      bool // one process without Redis
	listen     string
}

// stateDirectory is what the processes may write to.
const stateDirectory = "/var/lib/lyceum"

// config writes lyceum.yaml: what is derived, and the settings of the operator over it.
func (in *Input) config(p place) ([]byte, error) {
	d := &document{}
	d.head("The configuration of all processes; manual/config.md explains every key. What differs between processes (roles, machine id,",
		"addresses) comes from their environment.")
	if p.alone {
		d.head("The configuration; manual/config.md explains every key.")
	}
	d.set("server.name", in.ServerName)
	d.set("server.data", stateDirectory)
	switch {
	case p.everywhere:
		d.set("server.listen", fmt.Sprintf("0.0.0.0:%d", PublicPort))
		d.set("fleet.internal_listen", fmt.Sprintf("0.0.0.0:%d", InternalPort))
		d.set("fleet.ops_listen", fmt.Sprintf("0.0.0.0:%d", OpsPort))
	case p.listen != "":
		d.set("server.listen", p.listen)
	}
	if in.Revision > 0 {
		d.set("fleet.config_revision", in.Revision)
	}
	for _, f := range p.files {
		d.set(f.Key+"_file", path.Join(p.secrets, f.Name))
	}
	if in.DatabaseConnections > 0 {
		d.set("database.connections", in.DatabaseConnections)
	}
	if !p.alone {
		d.set("redis.addresses", in.redisAddresses())
		if in.RedisTLS {
			d.set("redis.tls", true)
		}
	}
	in.blobConfig(d, p)
	d.because("http.drain_delay", in.Drain.String(), "At the end of a process: not ready for so long, then requests under way have so long.")
	d.set("http.shutdown_timeout", in.Shutdown.String())
	if len(in.TrustedProxies) > 0 {
		d.because("http.trusted_proxies", in.TrustedProxies, "The proxy with TLS comes from here and says who the client is.")
	}
	d.set("accounts.well_known.client", in.PublicURL)
	if in.decodes() {
		d.because("media.thumbnails.workers", in.thumbnailWorkers(),
			"So many pictures of so much memory fit beside the process into its memory limit.")
		d.set("media.thumbnails.memory", fmt.Sprintf("%dMiB", decodingMemory/mebibyte))
	}
	if !p.alone {
		d.set("obs.log_format", "json")
	}
	for _, s := range in.Settings {
		d.set(s.Key, s.Value)
	}
	return d.text()
}

// blobConfig says where files are.
func (in *Input) blobConfig(d *document, p place) {
	if in.BlobDirectory != "" {
		d.set("blob.directory", in.BlobDirectory)
		if !p.alone {
			d.set("blob.directory_shared", true)
		}
		return
	}
	if in.S3.Endpoint == "" {
		return // in the data directory
	}
	d.set("blob.s3.endpoint", in.S3.Endpoint)
	d.set("blob.s3.region", in.S3.Region)
	d.set("blob.s3.bucket", in.S3.Bucket)
	if in.S3.Prefix != "" {
		d.set("blob.s3.prefix", in.S3.Prefix)
	}
	if in.S3.AccessKey != "" {
		d.set("blob.s3.access_key", in.S3.AccessKey)
	}
	d.set("blob.s3.path_style", !in.S3.VirtualHost)
	d.set("blob.s3.make_bucket", in.S3.MakeBucket)
}

// redisAddresses are all addresses of Redis.
func (in *Input) redisAddresses() []string {
	if len(in.RedisAddresses) > 0 {
		return in.RedisAddresses
	}
	return []string{in.Redis.Address}
}

// Setting is a key of the configuration with its value.
type Setting struct {
	Key   string
	Value any // what the YAML library prints
}

// document is a YAML file that is being made, with its keys in the order in which they came.
type document struct {
	above []string
	root  node
	err   error
}

// node is a key of a document.
type node struct {
	name, comment string
	value         any
	below         []*node
}

func (d *document) head(lines ...string) { d.above = lines }

func (d *document) set(key string, value any) { d.because(key, value, "") }

// because sets a key, with a comment above it. A key that is there gets the new value.
func (d *document) because(key string, value any, comment string) {
	at := &d.root
	for name := range strings.SplitSeq(key, ".") {
		i := slices.IndexFunc(at.below, func(n *node) bool { return n.name == name })
		if i < 0 {
			i = len(at.below)
			at.below = append(at.below, &node{name: name})
		}
		at = at.below[i]
	}
	at.value, at.comment = value, comment
}

func (d *document) text() ([]byte, error) {
	var b strings.Builder
	for _, line := range d.above {
		fmt.Fprintf(&b, "# %s\n", line)
	}
	d.write(&b, d.root.below, 0)
	return []byte(b.String()), d.err
}

func (d *document) write(b *strings.Builder, list []*node, depth int) {
	space := strings.Repeat("  ", depth)
	for _, n := range list {
		if n.comment != "" {
			fmt.Fprintf(b, "%s# %s\n", space, n.comment)
		}
		fmt.Fprintf(b, "%s%s:", space, n.name)
		if len(n.below) > 0 {
			b.WriteByte('\n')
			d.write(b, n.below, depth+1)
			continue
		}
		var text string
		var err error
		switch v := n.value.(type) {
		case string:
			text, err = quote(v)
		case bool, int, int64:
			text = fmt.Sprint(v)
		default:
			var out []byte
			out, err = yaml.Marshal(v)
			if text = strings.TrimRight(string(out), "\n"); !strings.HasPrefix(text, "[") && !strings.HasPrefix(text, "{") {
				if strings.ContainsAny(text, "\n:") || strings.HasPrefix(text, "- ") {
					text = "\n" + strings.TrimRight(indent(2*depth+2, text), "\n")
				}
			}
		}
		if err != nil && d.err == nil {
			d.err = fmt.Errorf("%s: %w", n.name, err)
		}
		if !strings.HasPrefix(text, "\n") {
			b.WriteByte(' ')
		}
		b.WriteString(text + "\n")
	}
}

func seconds(d time.Duration) int { return int(d / time.Second) }
