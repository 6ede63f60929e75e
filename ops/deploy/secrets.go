package deploy

import (
	"cmp"
	"fmt"
	"maps"
	"slices"
	"strings"
)

// Keys of the secrets that every fleet may have.
const (
	keyDatabase = "database.url"
	keyRedis    = "redis.password"
	keyS3       = "blob.s3.secret_key"
	keyFleet    = "fleet.secret"
)

// Secrets are the secret values. They are rendered into files of mode 0600.
type Secrets struct {
	DatabaseURL   string
	RedisPassword string
	S3SecretKey   string
	Fleet         string
	Other         map[string]string // by the key of the configuration, such as accounts.shared_secret
}

// Placeholder stands in the file of a secret that the operator has to write.
const Placeholder = "REPLACE-THIS"

// secretFile is the file with a secret, and the key of the configuration that names it.
type secretFile struct {
	Key, Name, Value string
	Generated        bool   // nobody gave it; the file of an earlier rendering stays
	Fill             string // what the operator has to write into it; "" when it is complete
}

// Variable is the variable of the environment that names the file.
func (f secretFile) Variable() string {
	return "LYCEUM_" + strings.ToUpper(strings.ReplaceAll(f.Key, ".", "_")) + "_FILE"
}

// secretName is the name of the file, in a Secret, in /run/secrets and as credential of systemd.
func secretName(key string) string {
	switch key {
	case keyS3:
		return "s3-secret-key"
	default:
		return strings.NewReplacer(".", "-", "_", "-").Replace(key)
	}
}

// files are the secrets by the names of their files; those that are empty are left out.
func (s Secrets) files() map[string]string {
	out := map[string]string{}
	for key, value := range s.keys() {
		out[secretName(key)] = value
	}
	return out
}

// keys are the secrets by their keys; those that are empty are left out.
func (s Secrets) keys() map[string]string {
	out := map[string]string{keyDatabase: s.DatabaseURL, keyRedis: s.RedisPassword, keyS3: s.S3SecretKey, keyFleet: s.Fleet}
	maps.Copy(out, s.Other)
	maps.DeleteFunc(out, func(_, value string) bool { return value == "" })
	return out
}

// secretFiles are the files that the configuration needs: those with the secrets that were given, one with a secret of the fleet, and
// files that the operator fills. fleet tells that there are several processes.
func (in *Input) secretFiles(fleet bool) []secretFile {
	var out []secretFile
	given := in.Secrets.keys()
	for key, value := range given {
		if key == keyS3 && in.S3.Endpoint == "" {
			continue
		}
		out = append(out, secretFile{Key: key, Name: secretName(key), Value: value})
	}
	if given[keyDatabase] == "" {
		out = append(out, secretFile{
			Key: keyDatabase, Name: secretName(keyDatabase), Generated: true,
			Value: fmt.Sprintf("postgres://lyceum:%s@%s/lyceum", Placeholder, in.PostgreSQL.Address),
			Fill:  "the URL of PostgreSQL with its password",
		})
	}
	if given[keyFleet] == "" && fleet {
		out = append(out, secretFile{Key: keyFleet, Name: secretName(keyFleet), Value: freshSecret(), Generated: true})
	}
	if given[keyS3] == "" && in.S3.Endpoint != "" && in.S3.AccessKey != "" && !in.S3.NoSecretKey {
		out = append(out, secretFile{
			Key: keyS3, Name: secretName(keyS3), Value: Placeholder, Generated: true, Fill: "the secret of the S3 access key " + in.S3.AccessKey,
		})
	}
	slices.SortFunc(out, func(a, b secretFile) int { return cmp.Compare(a.Name, b.Name) })
	return out
}

// names are those of the files.
func names(files []secretFile) []string {
	var out []string
	for _, f := range files {
		out = append(out, f.Name)
	}
	return out
}
