package obs

import "testing"

func TestParseVersion(t *testing.T) {
	for text, want := range map[string]SemVer{"0.1.0": {0, 1, 0}, "v2.10.3": {2, 10, 3}, "1.2.3-rc1+abc": {1, 2, 3}, "1.2.3+x-y": {1, 2, 3}} {
		if got, err := ParseVersion(text); err != nil || got != want {
			t.Errorf("%q: expected %v, found %v, %v", text, want, got, err)
		}
	}
	for _, text := range []string{"", "1", "1.2", "1.2.x", "1.2.3.4", "-1.2.3", "1..3", "1.2.99999999999"} {
		if got, err := ParseVersion(text); err == nil {
			t.Errorf("%q: expected an error, found %v", text, got)
		}
	}
	if (SemVer{1, 2, 3}).Compare(SemVer{1, 10, 0}) >= 0 || (SemVer{2, 0, 0}).Compare(SemVer{1, 9, 9}) <= 0 {
		t.Error("the order is wrong")
	}
}
