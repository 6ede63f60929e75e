package deploy

import (
	"crypto/rand"
	"encoding/hex"
	"path"
	"time"
)

// Names of the secret files, in a Secret, in /run/secrets and as systemd credentials.
const (
	secretDatabase = "database-url"
	secretRedis    = "redis-password"
	secretS3       = "s3-secret-key"
	secretFleet    = "fleet-secret"
)

// FreshSecrets makes the secrets of a new fleet, for engines that are new too. The URL of the database has
// to be put together with the password by the caller; see [Compose].
func FreshSecrets() Secrets {
	text := func() string {
		b := make([]byte, 32)
		rand.Read(b) // never fails
		return hex.EncodeToString(b)
	}
	return Secrets{
		DatabaseURL: "postgres://lyceum:" + text() + "@postgres:5432/lyceum?sslmode=disable", RedisPassword: text(),
		S3SecretKey: text(), Fleet: text(),
	}
}

// files are the secrets by the names of their files; those that are empty are left out.
func (s Secrets) files() map[string]string {
	out := map[string]string{secretDatabase: s.DatabaseURL, secretRedis: s.RedisPassword, secretS3: s.S3SecretKey, secretFleet: s.Fleet}
	for name, value := range out {
		if value == "" {
			delete(out, name)
		}
	}
	return out
}

// Config is lyceum.yaml for all processes: what they have alike. Roles, the machine id and the address by which
// others reach a process come from its environment. secrets is the directory with the secret files; "" leaves
// them to the environment too.
func Config(in Input, secrets string) ([]byte, error) {
	in, err := in.withDefaults()
	if err != nil {
		return nil, err
	}
	return in.config(secrets, "/var/lib/lyceum", true)
}

func (in *Input) config(secrets, data string, everywhere bool) ([]byte, error) {
	file := func(name string) string {
		if secrets == "" {
			return ""
		}
		return path.Join(secrets, name)
	}
	return render("kubernetes/lyceum.yaml.tmpl", map[string]any{
		"In": in, "Data": data, "Everywhere": everywhere,
		"Public": PublicPort, "Internal": InternalPort, "Ops": OpsPort,
		"Database": file(secretDatabase), "Redis": file(secretRedis), "S3": file(secretS3), "Fleet": file(secretFleet),
		"DrainDelay": drainDelay.String(), "Shutdown": shutdownTimeout.String(), "Workers": in.thumbnailWorkers(),
		"Decoding": decodingMemory / mebibyte,
	})
}

func seconds(d time.Duration) int { return int(d / time.Second) }
