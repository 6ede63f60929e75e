package conf

import (
	"net/url"
	"regexp"
	"strings"
)

// Where passwords are found in a text besides values of type Secret, such as the address redis://:password@host.
var (
	inAuthority = regexp.MustCompile(`([A-Za-z][A-Za-z0-9+.-]*://)([^\s/?#@:"]*):([^\s/?#"]*)@`)
	inQuery     = regexp.MustCompile(`(?i)([?&][^\s=&#"]*(?:password|passwd|secret|token|key|signature)=)[^\s&#"]+`)
	inQuotes    = regexp.MustCompile("([\"'`])([^\\s@:/\"]*):(?:[^\\s/\"][^\\s\"]*)?@([^\\s@\"]+)([\"'`])") // "user:password@host"
	// the whole text is user:password@host, without a scheme
	bare = regexp.MustCompile(`^([^\s@:/]*):(\S*)@[^\s@]+$`)
)

// Redact hides the passwords of addresses in a text: of user:password@host and of queries such as
// ?password=…. What is printed of a configuration, of an error or in the log goes through it.
func Redact(text string) string { return redact(text, hidden) }

// WithoutPasswords removes the passwords that Redact hides from an address, and the user names before them.
func WithoutPasswords(address string) string { return redact(address, "") }

func redact(text, instead string) string {
	if !strings.ContainsAny(text, "@=") {
		return text
	}
	if scheme, rest, ok := strings.Cut(text, "://"); !ok {
		text = bare.ReplaceAllStringFunc(text, func(whole string) string {
			name, _, _ := strings.Cut(whole, ":")
			host := whole[strings.LastIndexByte(whole, '@')+1:]
			if instead == "" {
				return host
			}
			return name + ":" + instead + "@" + host
		})
	} else if at := strings.LastIndexByte(rest, '@'); at >= 0 && !strings.ContainsAny(text, " \t\n\"") {
		// An address that is no valid URL, because the password has a character that must be escaped.
		if _, err := url.Parse(text); err != nil && strings.Contains(rest[:at], ":") {
			name, _, _ := strings.Cut(rest, ":")
			if instead == "" {
				return scheme + "://" + rest[at+1:]
			}
			return scheme + "://" + name + ":" + instead + "@" + rest[at+1:]
		}
	}
	if instead == "" {
		text = inQuotes.ReplaceAllString(inAuthority.ReplaceAllString(text, "${1}"), "${1}${3}${4}")
		return inQuery.ReplaceAllString(text, "${1}")
	}
	text = inAuthority.ReplaceAllString(text, "${1}${2}:"+instead+"@")
	text = inQuotes.ReplaceAllString(text, "${1}${2}:"+instead+"@${3}${4}")
	return inQuery.ReplaceAllString(text, "${1}"+instead)
}
