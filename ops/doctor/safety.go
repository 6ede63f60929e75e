package doctor

import (
	"fmt"
	"maps"
	"math"
	"net"
	"net/netip"
	"slices"
	"strings"

	"lyceum/platform/status"
)

// Security is what the configuration says about safety. Secrets themselves are not in it.
type Security struct {
	Secrets              []Secret `json:"secrets"`
	Registration         string   `json:"registration"`            // open, token or closed
	RateLimitsOff        bool     `json:"rate_limits_off"`         // http.rate_limits_off
	PasswordMemoryKiB    int      `json:"password_memory_kib"`     // of argon2id; 0: not known
	PasswordPasses       int      `json:"password_passes"`         //
	TrustsEveryProxy     bool     `json:"trusts_every_proxy"`      // http.trusted_proxies has 0.0.0.0/0 or ::/0
	UnauthenticatedMedia bool     `json:"unauthenticated_media"`   // media.allow_unauthenticated
	SecretFilesReadable  []string `json:"secret_files_readable"`   // files of secrets that others than their owner may read
	DirectoryOpen        string   `json:"directory_open"`          // the data directory, when others may look into it
	PublicListener       string   `json:"public_listener_address"` // server.listen
	PublicTLS            bool     `json:"public_tls"`              // http.trusted_proxies has a proxy, which is taken to speak TLS
}

// Secret is what may be told of a secret.
type Secret struct {
	Name    string  `json:"name"` // key of the configuration
	Length  int     `json:"length"`
	Entropy float64 `json:"entropy_bits"` // as Entropy estimates
}

// Entropy is an upper bound of the bits of entropy of a secret: its length times the entropy of its characters. Words and dates have
// less than it says; a secret that it calls weak is weak.
func Entropy(secret string) float64 {
	runes := []rune(secret)
	seen := map[rune]float64{}
	for _, r := range runes {
		seen[r]++
	}
	bits := 0.0
	for _, n := range seen {
		p := n / float64(len(runes))
		bits -= p * math.Log2(p)
	}
	// A run such as abcd or 1234 tells little more than its first character.
	steps := 0
	for i := 1; i < len(runes); i++ {
		if d := runes[i] - runes[i-1]; d >= -1 && d <= 1 {
			steps++
		}
	}
	return bits * float64(len(runes)-steps)
}

func (e *exam) clocks() {
	var list []reading
	for _, s := range e.alive() {
		way := "ahead of"
		if s.ClockAhead < 0 {
			way = "behind"
		}
		list = append(list, reading{
			name(s), math.Abs(s.ClockAhead), way + " the database",
			"run a time service (chrony, systemd-timesyncd) on its host",
		})
	}
	e.check(gauge{
		rule: "clock", what: "difference of the clock", warn: limitClock, critical: 10, show: milliseconds,
		why: "message times, token lives and signatures go by it; leases do not",
	}, list)
}

func (e *exam) files() {
	var used []reading
	few := 0
	for _, s := range e.alive() {
		if s.MaxFiles <= 0 {
			continue
		}
		do := "set LimitNOFILE=65536 (systemd) or ulimit -n 65536"
		if s.MaxFiles < leastFiles {
			few++
			e.add(Finding{
				Severity: Warning, Rule: "file-limit", Where: name(s),
				What: fmt.Sprintf("may open %d files, at least %d expected", s.MaxFiles, leastFiles),
				Why:  "every waiting client is an open file", Do: do,
			})
		}
		used = append(used, reading{name(s), float64(s.Files) / float64(s.MaxFiles), fmt.Sprintf("%d of %d", s.Files, s.MaxFiles), do})
	}
	if few == 0 && len(used) > 0 {
		e.add(Finding{Severity: OK, Rule: "file-limit", Where: "processes", What: fmt.Sprintf("all may open %d files or more", leastFiles)})
	}
	e.check(gauge{
		rule: "files", what: "open files", warn: limitFiles, critical: 0.95, show: percent,
		why: "at the limit no client can connect",
	}, used)
}

// networkFileSystem reports whether a kind of file system stores files on another machine.
func networkFileSystem(kind string) bool {
	kind = strings.ToLower(kind)
	return slices.Contains([]string{
		"nfs", "nfs4", "cifs", "smb", "smb2", "smb3", "smbfs", "9p", "afs", "ceph", "glusterfs", "lustre", "gpfs",
		"beegfs", "ocfs2", "gfs2", "ncpfs", "fuse", "fuseblk",
	}, kind) ||
		strings.HasPrefix(kind, "fuse.")
}

func (e *exam) scratch() {
	checked, bad := 0, 0
	for _, s := range e.alive() {
		if s.Scratch == "" {
			continue
		}
		checked++
		if networkFileSystem(s.Scratch) {
			bad++
			e.add(Finding{
				Severity: Warning, Rule: "scratch", Where: name(s), What: "server.data lies on " + s.Scratch + ", expected a local disk",
				Why: "uploads and thumbnails need fast temporary files, and locks of network file systems lie; SQLite on one loses data",
				Do:  "set server.data to a directory on a local disk",
			})
		}
		switch free := float64(s.ScratchFree); {
		case free < 1*gib:
			bad++
			e.add(Finding{
				Severity: Critical, Rule: "disk", Where: name(s), What: size(free) + " free under server.data, at least 5.0 GiB expected",
				Why: "uploads fail when it is full", Do: "free space there, or move server.data",
			})
		case free < 5*gib:
			bad++
			e.add(Finding{
				Severity: Warning, Rule: "disk", Where: name(s), What: size(free) + " free under server.data, at least 5.0 GiB expected",
				Do: "free space there, or move server.data",
			})
		}
	}
	if checked > 0 && bad == 0 {
		e.add(Finding{Severity: OK, Rule: "scratch", Where: "processes", What: "scratch is local and has space"})
	}
}

// exposure returns who can reach a listener: "" for this machine or a private network, "every" for all addresses of the machine,
// "public" for an address of the internet.
func exposure(address string) string {
	host, _, err := net.SplitHostPort(address)
	if err != nil {
		host = address
	}
	if host == "" || host == "*" {
		return "every"
	}
	ip, err := netip.ParseAddr(strings.Trim(host, "[]"))
	if err != nil {
		return "" // a name: what it resolves to is not known here
	}
	ip = ip.Unmap().WithZone("")
	shared := netip.MustParsePrefix("100.64.0.0/10") // RFC 6598, as used inside clouds
	switch {
	case ip.IsUnspecified():
		return "every"
	case ip.IsLoopback(), ip.IsPrivate(), ip.IsLinkLocalUnicast(), shared.Contains(ip):
		return ""
	}
	return "public"
}

// proxies looks for addresses that pass on the requests of others and are not in http.trusted_proxies.
func (e *exam) proxies() {
	at := map[string][]string{}
	for _, s := range e.alive() {
		for _, address := range s.Untrusted {
			at[address] = append(at[address], name(s))
		}
	}
	for _, address := range slices.Sorted(maps.Keys(at)) {
		f := Finding{
			Severity: Warning, Rule: "proxy", Where: "http.trusted_proxies",
			What: fmt.Sprintf("%s passes requests on (it sends X-Forwarded-For or Forwarded) and is not named: seen by %s", address,
				shorten(at[address])),
			Why: "all clients behind it count as one address: for limits, in the log, and in the list of sessions",
			Do:  fmt.Sprintf("if it is your proxy: --set http.trusted_proxies=%s, or the key in the configuration", address),
		}
		if exposure(address) == "public" { // anybody can send the header
			f.Severity, f.Do = Note, f.Do+"; if it is not, nothing: what it says is not believed"
		}
		e.add(f)
	}
}

func (e *exam) listeners() {
	checked, bad := 0, 0
	for _, s := range e.alive() {
		for _, l := range []struct{ key, address, risk string }{
			{"fleet.ops_listen", s.Ops, "it has no password and no TLS: metrics and profiles of the process are open to who reaches it"},
			{"fleet.internal_listen", s.Internal, "only processes with the fleet's secret are let in, but nobody else needs to reach it"},
		} {
			if l.address == "" {
				continue
			}
			checked++
			f := Finding{Rule: "listener", Where: name(s), Why: l.risk, Do: "set " + l.key + " to an address of a private network, or to 127.0.0.1"}
			switch exposure(l.address) {
			case "public":
				f.Severity, f.What = Critical, fmt.Sprintf("%s is %s, a public address", l.key, l.address)
			case "every":
				f.Severity, f.What = Note, fmt.Sprintf("%s is %s: every address of the machine", l.key, l.address)
				f.Do += "; or keep it behind a firewall or a network policy, as the rendered manifests do"
				if l.key == "fleet.ops_listen" {
					f.Severity = Warning
				}
			default:
				continue
			}
			bad++
			e.add(f)
		}
	}
	if checked > 0 && bad == 0 {
		e.add(Finding{Severity: OK, Rule: "listener", Where: "processes", What: "operators' and internal listeners are on private addresses"})
	}
}

// enginesSafe checks that the engines ask for a password and that connections to them are encrypted.
func (e *exam) enginesSafe() {
	checked, bad := 0, 0
	for _, x := range []struct {
		where, protect, encrypt string
		e                       status.Engine
	}{
		{
			"database", "set a password (scram-sha-256 in pg_hba.conf) and give it in database.url", "add sslmode=verify-full to database.url",
			e.after.Database,
		},
		{
			"redis", "set requirepass or an ACL user and give it in redis.password", "set redis.tls, or use rediss:// in redis.addresses",
			e.after.Redis,
		},
		{"blob store", "let the bucket ask for keys; lyceum render s3-policy gives the least rights", "use an https:// endpoint", e.after.Blob},
	} {
		if slices.Contains([]string{"", "sqlite", "local", "directory"}, x.e.Kind) || x.e.Error != "" {
			continue
		}
		checked++
		where := fmt.Sprintf("%s (%s)", x.where, x.e.Kind)
		if !x.e.Protected {
			bad++
			f := Finding{Severity: Critical, Rule: "engine-open", Where: where, What: "it asks for no password", Why: "who reaches " + x.e.Address +
				" can read and change everything", Do: x.protect}
			if host, _, err := net.SplitHostPort(x.e.Address); err == nil &&
				(host == "localhost" || strings.HasPrefix(host, "127.") || host == "::1") {
				f.Severity, f.Why = Warning, "every user of this machine can read and change everything"
			}
			e.add(f)
		}
		if !x.e.Encrypted {
			bad++
			e.add(Finding{
				Severity: Warning, Rule: "engine-plain", Where: where, What: "the connection to another machine is not encrypted",
				Why: "messages and passwords pass the network in the open", Do: x.encrypt,
			})
		}
	}
	if checked > 0 && bad == 0 {
		e.add(Finding{Severity: OK, Rule: "engine-open", Where: "engines", What: "all ask for a proof; " +
			"connections are encrypted or stay on this machine"})
	}
}

const (
	weakBits = 64.0  // below: can be guessed
	fairBits = 100.0 // below: weaker than the 128 bits and more of a made one
	// argonCost is KiB times passes of argon2id: 7 MiB and five passes, the least of the choices OWASP gives.
	argonCost = 7168 * 5
)

// readable adds findings for files that other users of the machine may read.
func (s *Security) readable(add func(severity Severity, key, what, why, do string)) {
	for _, f := range s.SecretFilesReadable {
		add(Critical, f, "others than its owner may read this file of a secret", "who has it can act as the server", "chmod o= "+f)
	}
	if d := s.DirectoryOpen; d != "" {
		add(Warning, d, "others than its owner may look into the data directory", "database, files and secret are in it", "chmod 700 "+d)
	}
}

// secure examines the configuration.
func (e *exam) secure() {
	s := e.given.Security
	if s == nil {
		return
	}
	n := len(e.findings)
	add := func(severity Severity, key, what, why, do string) {
		e.add(Finding{Severity: severity, Rule: "configuration", Where: key, What: what, Why: why, Do: do})
	}
	for _, x := range s.Secrets {
		what := fmt.Sprintf("%d characters, at most %.0f bits", x.Length, x.Entropy)
		switch {
		case x.Entropy < weakBits:
			add(Critical, x.Name, what+fmt.Sprintf(", at least %.0f expected", fairBits), "it can be guessed", "make one with: openssl rand -hex 32")
		case x.Entropy < fairBits:
			add(Warning, x.Name, what+fmt.Sprintf(", at least %.0f expected", fairBits), "a strong one costs nothing",
				"make one with: openssl rand -hex 32")
		}
	}
	if s.Registration == "open" {
		add(Warning, "accounts.registration", "open, without a captcha or a proof of an e-mail address",
			"robots find such servers within days and send from them", "set accounts.registration to token")
	}
	if s.RateLimitsOff {
		add(Critical, "http.rate_limits_off", "rate limits are off", "passwords can be tried as fast as the server answers",
			"remove it: it is for load tests")
	}
	if s.PasswordMemoryKiB > 0 && s.PasswordMemoryKiB*max(1, s.PasswordPasses) < argonCost {
		add(Warning, "accounts.password", fmt.Sprintf("argon2id with %d KiB and %d passes, expected 19,456 KiB and 2", s.PasswordMemoryKiB,
			s.PasswordPasses), "stolen password hashes are cheap to try", "remove memory_kib and passes: their defaults are right")
	}
	if s.TrustsEveryProxy {
		add(Critical, "http.trusted_proxies", "every address is trusted", "anybody can choose the address that limits and logs see",
			"name the networks of your load balancers only")
	}
	if s.UnauthenticatedMedia {
		add(Note, "media.allow_unauthenticated", "files are served without a token", "who knows a link can read the file",
			"set it to false when no old client needs it")
	}
	s.readable(add)
	if exposure(s.PublicListener) == "public" && !s.PublicTLS {
		add(Critical, "server.listen", s.PublicListener+" is public and has no TLS", "passwords pass the internet in the open",
			"put a load balancer with TLS before it: lyceum render caddy")
	}
	if len(e.findings) == n {
		e.add(Finding{
			Severity: OK, Rule: "configuration", Where: "configuration",
			What: "secrets, registration, limits and password costs are as they should be",
		})
	}
}
