package db

import (
	"errors"
	"fmt"
	"net/url"
	"strings"

	"github.com/jackc/pgx/v5"
)

// errAddress says nothing of an address that can not be read, as any part of it may be one of the password.
var errAddress = errors.New("expected postgres://user:password@host/name, with each of @ : / ? # % and spaces in the user and the " +
	"password written as %40 %3A %2F %3F %23 %25 %20")

// CheckAddress refuses an address of PostgreSQL that can not be read, or of which a part of the password could be taken for a host, which
// would be asked for and named in errors. Its errors hold no password.
func CheckAddress(address string) error {
	_, err := parseAddress(address)
	return err
}

func parseAddress(address string) (*pgx.ConnConfig, error) {
	scheme, rest, _ := strings.Cut(address, "://")
	if scheme != "postgres" && scheme != "postgresql" {
		return nil, errors.New("expected an address that begins with postgres://")
	}
	place, settings, _ := strings.Cut(rest, "?")
	authority, name, _ := strings.Cut(place, "/")
	u, err := url.Parse(address)
	if err != nil || strings.Count(authority, "@") > 1 || strings.ContainsAny(name, "@#") || strings.Contains(authority, "#") {
		return nil, errAddress
	}
	for setting := range strings.SplitSeq(settings, "&") {
		if strings.Contains(setting, "@") && !strings.Contains(setting, "=") {
			return nil, errAddress
		}
	}
	c, err := pgx.ParseConfig(address)
	if err == nil {
		return c, nil
	}
	if u.User != nil { // the words for what is wrong may quote the address
		u.User = url.User(u.User.Username())
	}
	if query := u.Query(); query.Has("password") {
		query.Del("password")
		u.RawQuery = query.Encode()
	}
	if _, err = pgx.ParseConfig(u.String()); err == nil {
		return nil, errAddress
	}
	return nil, fmt.Errorf("expected postgres://user:password@host/name: %w", err)
}
