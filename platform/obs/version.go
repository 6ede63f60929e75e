package obs

import (
	"cmp"
	"fmt"
	"strconv"
	"strings"
)

// SemVer is a version X.Y.Z. Another X breaks: the processes of a fleet have one X. Another Y is large and compatible:
// a fleet is upgraded quickly. Another Z is small and compatible.
type SemVer struct{ X, Y, Z int }

// ParseVersion reads X.Y.Z; what follows a - or + is not looked at.
func ParseVersion(text string) (SemVer, error) {
	bare, _, _ := strings.Cut(strings.TrimPrefix(text, "v"), "+")
	bare, _, _ = strings.Cut(bare, "-")
	parts := strings.Split(bare, ".")
	var n [3]int
	for i, part := range parts {
		v, err := strconv.ParseUint(part, 10, 31)
		if len(parts) != 3 || err != nil {
			return SemVer{}, fmt.Errorf("version: expected X.Y.Z, found %q", text)
		}
		n[i] = int(v)
	}
	if len(parts) != 3 {
		return SemVer{}, fmt.Errorf("version: expected X.Y.Z, found %q", text)
	}
	return SemVer{n[0], n[1], n[2]}, nil
}

// Compare is negative when v is older than w.
func (v SemVer) Compare(w SemVer) int {
	return cmp.Or(cmp.Compare(v.X, w.X), cmp.Compare(v.Y, w.Y), cmp.Compare(v.Z, w.Z))
}

func (v SemVer) String() string { return fmt.Sprintf("%d.%d.%d", v.X, v.Y, v.Z) }
