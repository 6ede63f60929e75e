package matrix

import (
	"errors"
	"fmt"
	"net/netip"
	"strconv"
	"strings"
	"unicode/utf8"
)

// MaxIDBytes is the longest user id, room id, alias or event id, with sigil
// and server name (specification, appendices, "Identifier Grammar").
const MaxIDBytes = 255

// ErrID is the reason of every refused identifier.
var ErrID = errors.New("invalid Matrix identifier")

func badID(kind, why string) error { return fmt.Errorf("%w: %s: %s", ErrID, kind, why) }

// ServerOf gives what stands after the first colon of id: the server name, or
// "" when the id has none (event ids since room version 3, room ids of room
// version 12).
func ServerOf(id string) string {
	_, server, _ := strings.Cut(id, ":")
	return server
}

// LocalpartOf gives what stands between the sigil and the first colon.
func LocalpartOf(id string) string {
	local, _, _ := strings.Cut(id, ":")
	if local == "" {
		return ""
	}
	return local[1:]
}

// parseID splits "&localpart:server" and checks what all such ids share.
func parseID(sigil byte, kind, id string) (localpart, server string, err error) {
	switch {
	case len(id) == 0 || id[0] != sigil:
		return "", "", badID(kind, "must start with "+string(sigil))
	case len(id) > MaxIDBytes:
		return "", "", badID(kind, "longer than 255 bytes")
	}
	localpart, server, ok := strings.Cut(id[1:], ":")
	if !ok {
		return "", "", badID(kind, "has no server name")
	}
	if err := checkLocalpart(kind, localpart); err != nil {
		return "", "", err
	}
	if !ValidServerName(server) {
		return "", "", badID(kind, "has an invalid server name")
	}
	return localpart, server, nil
}

func checkLocalpart(kind, s string) error {
	if strings.IndexByte(s, 0) >= 0 {
		return badID(kind, "contains NUL")
	}
	if !utf8.ValidString(s) {
		return badID(kind, "is not UTF-8")
	}
	return nil
}

// ParseUserID splits a user id. It takes the historical grammar too (any
// localpart without colon and NUL, even the empty one), because servers must
// accept such ids in events. Use ValidLocalpart for ids made here.
func ParseUserID(id string) (localpart, server string, err error) {
	return parseID('@', "user id", id)
}

// ValidUserID reports whether ParseUserID takes id.
func ValidUserID(id string) bool {
	_, _, err := ParseUserID(id)
	return err == nil
}

// ValidLocalpart reports whether s may be the localpart of a new user:
// a-z 0-9 . _ = - / + and not empty.
func ValidLocalpart(s string) bool {
	for i := range len(s) {
		switch c := s[i]; {
		case c >= 'a' && c <= 'z', c >= '0' && c <= '9',
			c == '.', c == '_', c == '=', c == '-', c == '/', c == '+':
		default:
			return false
		}
	}
	return s != ""
}

// NewUserID makes the id of a new user; localpart must be a ValidLocalpart.
func NewUserID(localpart, server string) (string, error) {
	if !ValidLocalpart(localpart) {
		return "", badID("user id", "the localpart may hold only a-z 0-9 . _ = - / +")
	}
	id := "@" + localpart + ":" + server
	_, _, err := ParseUserID(id)
	return id, err
}

// ParseRoomID splits a room id. Room ids of room version 12 and later are a
// hash without a server name; server is then "".
func ParseRoomID(id string) (opaque, server string, err error) {
	if strings.IndexByte(id, ':') >= 0 {
		return parseID('!', "room id", id)
	}
	if len(id) == 0 || id[0] != '!' {
		return "", "", badID("room id", "must start with !")
	}
	if !isHash(id[1:]) {
		return "", "", badID("room id", "without a server name it must be 43 base64 characters")
	}
	return id[1:], "", nil
}

// ValidRoomID reports whether ParseRoomID takes id.
func ValidRoomID(id string) bool {
	_, _, err := ParseRoomID(id)
	return err == nil
}

// isHash reports whether s is a SHA-256 in URL-safe unpadded base64.
func isHash(s string) bool {
	if len(s) != 43 {
		return false
	}
	for i := range len(s) {
		if !isAlnum(s[i]) && s[i] != '-' && s[i] != '_' {
			return false
		}
	}
	return true
}

func isAlnum(c byte) bool {
	return c >= 'a' && c <= 'z' || c >= 'A' && c <= 'Z' || c >= '0' && c <= '9'
}

// ParseAlias splits a room alias.
func ParseAlias(id string) (localpart, server string, err error) {
	return parseID('#', "room alias", id)
}

// ValidAlias reports whether ParseAlias takes id.
func ValidAlias(id string) bool {
	_, _, err := ParseAlias(id)
	return err == nil
}

// ParseEventID splits an event id of any room version; server is "" since
// room version 3.
func ParseEventID(id string) (opaque, server string, err error) {
	if strings.IndexByte(id, ':') >= 0 {
		return parseID('$', "event id", id)
	}
	switch {
	case len(id) < 2 || id[0] != '$':
		return "", "", badID("event id", "must start with $ and not be empty")
	case len(id) > MaxIDBytes:
		return "", "", badID("event id", "longer than 255 bytes")
	}
	if err := checkLocalpart("event id", id[1:]); err != nil {
		return "", "", err
	}
	return id[1:], "", nil
}

// ValidEventID reports whether ParseEventID takes id.
func ValidEventID(id string) bool {
	_, _, err := ParseEventID(id)
	return err == nil
}

// ParseServerName splits a server name into host (with the brackets of an
// IPv6 literal) and port, 0 when there is none.
func ParseServerName(name string) (host string, port int, err error) {
	host = name
	cut := strings.LastIndexByte(name, ':')
	if cut >= 0 && !strings.HasSuffix(name, "]") {
		host = name[:cut]
		p := name[cut+1:]
		if len(p) == 0 || len(p) > 5 || !isDigits(p) {
			return "", 0, badID("server name", "the port must be 1 to 5 digits")
		}
		port, _ = strconv.Atoi(p)
		if port > 65535 {
			return "", 0, badID("server name", "the port is above 65535")
		}
	}
	if len(name) > MaxIDBytes || !validHost(host) {
		return "", 0, badID("server name", "the host is neither an address nor a DNS name")
	}
	return host, port, nil
}

// ValidServerName reports whether ParseServerName takes name.
func ValidServerName(name string) bool {
	for i := range len(name) {
		if !isAlnum(name[i]) && name[i] != '-' && name[i] != '.' {
			_, _, err := ParseServerName(name)
			return err == nil
		}
	}
	return len(name) <= MaxIDBytes && validHost(name)
}

func isDigits(s string) bool {
	for i := range len(s) {
		if s[i] < '0' || s[i] > '9' {
			return false
		}
	}
	return true
}

func validHost(h string) bool {
	if h == "" {
		return false
	}
	if h[0] == '[' {
		if h[len(h)-1] != ']' {
			return false
		}
		a, err := netip.ParseAddr(h[1 : len(h)-1])
		return err == nil && a.Is6() && a.Zone() == ""
	}
	letters := false
	for i := range len(h) {
		c := h[i]
		if !isAlnum(c) && c != '-' && c != '.' {
			return false
		}
		letters = letters || c != '.' && (c < '0' || c > '9')
	}
	// Four numbers between dots look like an IPv4 address and must be one.
	if !letters && strings.Count(h, ".") == 3 {
		_, err := netip.ParseAddr(h)
		return err == nil
	}
	return true
}

// ParseMXC splits mxc://server/mediaid. The media id is not empty and holds
// only A-Z a-z 0-9 - and _ (client-server API, content repository). It is for
// federation.
func ParseMXC(uri string) (server, mediaID string, err error) {
	rest, ok := strings.CutPrefix(uri, "mxc://")
	if !ok {
		return "", "", badID("mxc uri", "must start with mxc://")
	}
	server, mediaID, ok = strings.Cut(rest, "/")
	if !ok || !ValidServerName(server) {
		return "", "", badID("mxc uri", "has an invalid server name")
	}
	if !ValidMediaID(mediaID) {
		return "", "", badID("mxc uri", "the media id may hold only A-Z a-z 0-9 - _")
	}
	return server, mediaID, nil
}

// ValidMediaID reports whether s may stand as the media id of an mxc URI.
func ValidMediaID(s string) bool {
	for i := range len(s) {
		if !isAlnum(s[i]) && s[i] != '-' && s[i] != '_' {
			return false
		}
	}
	return s != "" && len(s) <= MaxIDBytes
}

// NewMXC makes an mxc URI; server and mediaID are taken as valid.
func NewMXC(server, mediaID string) string { return "mxc://" + server + "/" + mediaID }
