package fleet

import (
	"context"
	"crypto/aes"
	"crypto/cipher"
	"crypto/hkdf"
	"crypto/rand"
	"crypto/sha256"
	"encoding/base64"
	"errors"
	"fmt"
	"hash/crc32"
	"os"
	"slices"
	"strings"

	"lyceum/matrix"
	"lyceum/platform/db"
	"lyceum/platform/disk"
	"lyceum/platform/lease"
)

const minSecret = 16 // characters

// EnsureSecret is the configured secret or the one in the data directory. The first start of a server that has none makes it there. One
// whose database is sealed with a secret that is gone makes no other, which would be taken for it later.
func (c *Config) EnsureSecret(ctx context.Context, d *db.DB) ([]byte, error) {
	secret, err := c.ExistingSecret()
	if err != nil || secret != nil {
		return secret, err
	}
	path := c.SecretFile()
	key, err := storedKey(ctx, d)
	if err != nil {
		return nil, err
	}
	if key != "" {
		return nil, fmt.Errorf("fleet.secret: the signing key in the database is sealed with the secret of the server, and there is none: "+
			"no fleet.secret is configured and there is no file %s: "+
			"put that file back (lyceum backup --with-secrets keeps it), or give the fleet.secret that the other processes have; "+
			"if it is lost: lyceum backup FILE and lyceum restore FILE --replace --new-secret", path)
	}
	if !c.Embedded() && len(c.Redis.Addresses) > 0 {
		return nil, errors.New("fleet.secret: processes that share PostgreSQL and Redis need one secret: " +
			"make one with `openssl rand -hex 32` and give it to all, in LYCEUM_FLEET_SECRET or fleet.secret_file")
	}
	return makeSecret(c, path)
}

func makeSecret(c *Config, path string) ([]byte, error) {
	secret := rand.Text() + rand.Text()
	if err := disk.WriteFile(path, []byte(secret+"\n"), 0o600); err != nil {
		return nil, c.ofData(fmt.Errorf("the secret can not be stored: %w", err))
	}
	return []byte(secret), nil
}

// ExistingSecret is the configured secret or the one in the data directory; nil when there is none.
func (c *Config) ExistingSecret() ([]byte, error) {
	if s := c.Fleet.Secret.Reveal(); s != "" {
		return []byte(s), nil
	}
	path := c.SecretFile()
	text, err := os.ReadFile(path)
	if errors.Is(err, os.ErrNotExist) {
		return nil, nil
	}
	if err != nil {
		return nil, c.ofData(err)
	}
	secret := strings.TrimSpace(string(text))
	if len(secret) < minSecret {
		return nil, fmt.Errorf("the secret in %s has %d characters, expected at least %d: the file is damaged; take it from a backup, "+
			"as the signing key of the server is sealed with it", path, len(secret), minSecret)
	}
	return []byte(secret), nil
}

// storedKey is the sealed signing key of the server whose database this is, "" when it has none yet.
func storedKey(ctx context.Context, d *db.DB) (string, error) {
	tables, err := d.Tables(ctx, d)
	if err != nil || !slices.ContainsFunc(tables, func(t db.Table) bool { return t.Name == "fleet" }) {
		return "", err
	}
	return lease.Value(ctx, d, keyRow)
}

// keyRow is the row of table fleet with the sealed signing key.
const keyRow = "signing_key"

// sealer seals the value of a name under the fleet's secret.
func sealer(secret []byte, name string) (cipher.AEAD, error) {
	key, err := hkdf.Key(sha256.New, secret, nil, "lyceum sealed "+name, 32)
	if err != nil {
		return nil, err
	}
	block, err := aes.NewCipher(key)
	if err != nil {
		return nil, err
	}
	return cipher.NewGCMWithRandomNonce(block)
}

// sealed returns the value of a name that the fleet keeps in the database, sealed with the fleet's secret. The first process stores
// fresh as the value.
func sealed(ctx context.Context, d *db.DB, secret []byte, name, fresh string) (string, error) {
	gcm, err := sealer(secret, name)
	if err != nil {
		return "", err
	}
	mine := base64.StdEncoding.EncodeToString(gcm.Seal(nil, nil, []byte(fresh), []byte(name)))
	stored, err := lease.InitValue(ctx, d, name, mine)
	if err != nil {
		return "", err
	}
	text, err := base64.StdEncoding.DecodeString(stored)
	if err != nil {
		return "", fmt.Errorf("the stored %s is damaged: %w", name, err)
	}
	plain, err := gcm.Open(nil, nil, text, []byte(name))
	if err != nil {
		return "", fmt.Errorf("the stored %s was sealed with another fleet.secret: give every process of the fleet the same one; "+
			"after a restore that was interrupted, run it again", name)
	}
	return string(plain), nil
}

// OpensSigningKey reports whether a secret opens the sealed signing key of a database.
func OpensSigningKey(secret []byte, stored string) bool {
	gcm, err := sealer(secret, keyRow)
	if err != nil {
		return false
	}
	text, err := base64.StdEncoding.DecodeString(stored)
	if err != nil {
		return false
	}
	_, err = gcm.Open(nil, nil, text, []byte(keyRow))
	return err == nil
}

// signingKey is the key that signs this server's events.
func signingKey(ctx context.Context, d *db.DB, secret []byte) (matrix.SigningKey, error) {
	fresh, err := matrix.GenerateSigningKey("a_"+rand.Text()[:4], rand.Reader)
	if err != nil {
		return fresh, err
	}
	text, err := sealed(ctx, d, secret, keyRow, fresh.ID+" "+base64.RawStdEncoding.EncodeToString(fresh.Seed()))
	if err != nil {
		return fresh, err
	}
	id, seed, _ := strings.Cut(text, " ")
	raw, err := base64.RawStdEncoding.DecodeString(seed)
	if err != nil {
		return fresh, err
	}
	return matrix.NewSigningKey(strings.TrimPrefix(id, "ed25519:"), raw)
}

// logEpoch identifies the history of the database: a restored one is another.
func logEpoch(ctx context.Context, d *db.DB) (uint32, error) {
	text, err := lease.InitValue(ctx, d, "log_epoch", rand.Text())
	return crc32.ChecksumIEEE([]byte(text)), err
}
