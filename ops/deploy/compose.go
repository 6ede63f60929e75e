package deploy

import (
	"cmp"
	"errors"
	"fmt"
	"maps"
	"net/url"
	"slices"
)

// storeImage is the S3 server of the compose file.
const storeImage = "minio/minio:RELEASE.2025-09-07T16-13-09Z"

// The network of the processes, and the address in it from which requests of this host come.
const (
	composeSubnet  = "172.31.83.0/24"
	composeGateway = "172.31.83.1"
)

// Compose renders compose.yaml with PostgreSQL, Redis, an S3 server and a service for each group of roles, and the files that it mounts:
// lyceum.yaml, the secrets and a Containerfile for the image. It needs all of Input.Secrets; the URL of the database must have the password
// that PostgreSQL is then given. See [FreshSecrets]. Secrets that a running fleet has must not be written anew.
func Compose(in Input) ([]File, error) {
	in.PostgreSQL, in.Redis = Place{Address: "postgres:5432"}, Place{Address: "redis:6379"}
	in.S3.Endpoint, in.S3.MakeBucket, in.S3.VirtualHost, in.RedisTLS = "http://s3:9000", true, false, false
	in.S3.AccessKey, in.S3.NoSecretKey = cmp.Or(in.S3.AccessKey, "lyceum"), false
	in.TrustedProxies = append([]string{composeGateway + "/32"}, in.TrustedProxies...)
	in, err := in.complete()
	if err != nil {
		return nil, err
	}
	secrets := in.Secrets.files()
	if s := in.Secrets; s.DatabaseURL == "" || s.RedisPassword == "" || s.S3SecretKey == "" || s.Fleet == "" {
		return nil, errors.New("secrets: expected the URL of the database, the password of Redis, " +
			"the secret key of the S3 store and the secret of the fleet; make fresh ones for a new fleet")
	}
	database, err := url.Parse(in.Secrets.DatabaseURL)
	password, has := "", false
	if err == nil {
		password, has = database.User.Password()
	}
	if !has || database.Host != in.PostgreSQL.Address && database.Host != "postgres" || database.Path != "/lyceum" ||
		database.User.Username() != "lyceum" {
		return nil, fmt.Errorf("secrets: expected postgres://lyceum:PASSWORD@postgres:5432/lyceum as the URL of the database")
	}
	files := in.secretFiles(true)
	secrets["postgres-password"] = password
	all := slices.Sorted(maps.Keys(secrets))

	r := renderer{}
	r.add("compose.yaml", 0o644, "compose/compose.yaml.tmpl", map[string]any{
		"In": in, "Groups": in.composeGroups(), "Connections": in.connections(), "Secrets": all, "Mounts": names(files),
		"S3Image": storeImage, "AccessKey": in.S3.AccessKey, "KillAfter": in.killAfter(), "SharedBuffers": in.SharedBuffers / mebibyte,
		"Subnet": composeSubnet, "Gateway": composeGateway, "Public": PublicPort, "Internal": InternalPort,
	})
	config, err := in.config(place{secrets: "/run/secrets", files: files, everywhere: true})
	r.note(err)
	r.files = append(r.files, File{Name: "lyceum.yaml", Mode: 0o644, Body: config})
	r.add("Containerfile", 0o644, "compose/Containerfile", nil)
	for _, name := range all {
		// Readable in the container by a user who is not root; the directory above is for the operator alone.
		r.files = append(r.files, File{
			Name: "secrets/" + name, Mode: 0o444, Body: []byte(secrets[name]), Generated: !slices.Contains(in.Given, name),
		})
	}
	return r.files, r.err
}

type composeGroup struct {
	Group
	Router           bool
	After            []string
	Memory, GoMemory string
}

// memory is what a process with several roles gets: roles of one process share its caches and its runtime, so
// the largest counts whole and the others half. One that stands for several processes of the plan gets what they would.
func (in *Input) memory(g Group) (limit, aim int64) {
	times := int64(1)
	if entry := in.entry(); slices.Contains(g.Roles, entry) && entry == "router" {
		times = int64(max(1, in.Sizes[entry].Min/g.Replicas))
	}
	defer func() { limit, aim = times*limit, times*aim }()
	for _, name := range g.Roles {
		s, ok := in.Sizes[name]
		if !ok {
			continue
		}
		half := s.Memory / 2
		limit, aim = max(limit, half)+half, max(aim, s.MemoryRequest/2)+s.MemoryRequest/2
	}
	return limit, aim
}

func (in *Input) composeGroups() []composeGroup {
	var out []composeGroup
	var router *composeGroup
	for _, g := range in.Groups {
		limit, aim := in.memory(g)
		c := composeGroup{Group: g, Router: slices.Contains(g.Roles, in.entry())}
		c.Memory, c.GoMemory = fmt.Sprintf("%dM", limit/mebibyte), fmt.Sprintf("%dMiB", aim/mebibyte)
		if c.Router && router == nil {
			router = &c
			continue
		}
		c.Router = false
		out = append(out, c)
	}
	if router != nil {
		for _, c := range out {
			router.After = append(router.After, c.Name)
		}
		out = append(out, *router)
	}
	return out
}

// processConnections is database.connections where it is not given.
const processConnections = 16

// MaxConnections are what PostgreSQL must allow for the processes of compose and systemd.
func MaxConnections(in Input) (int, error) {
	in, err := in.complete()
	return in.connections(), err
}

// connections are what PostgreSQL must allow: those of all processes and of one more for each group, which starts
// while an old one ends, and some for the operator.
func (in *Input) connections() int {
	n := 20
	for _, g := range in.Groups {
		n += (g.Replicas + 1) * cmp.Or(in.DatabaseConnections, processConnections)
	}
	return n
}
