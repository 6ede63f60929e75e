package media

import (
	"net/url"
	"testing"
)

func FuzzParseSize(f *testing.F) {
	f.Add("width=64&height=64&method=crop&animated=true")
	f.Add("width=99999999999999999999&height=-0")
	f.Fuzz(func(t *testing.T, text string) {
		query, err := url.ParseQuery(text)
		if err != nil {
			return
		}
		s, err := parseSize(query)
		if err != nil {
			return
		}
		up := s.roundedUp()
		if s.Width < 1 || s.Height < 1 || up.Crop != s.Crop || up.Animated != s.Animated || up.Width > 1600 || up.Height > 1200 {
			t.Errorf("%+v became %+v", s, up)
		}
		if !s.Crop && s.Width <= 1600 && s.Height <= 1200 && (up.Width < s.Width || up.Height < s.Height) {
			t.Errorf("%+v was rounded down to %+v", s, up)
		}
	})
}
