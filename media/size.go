package media

import (
	"net/url"
	"strconv"

	"lyceum/matrix"
)

// size is what one thumbnail is made for.
type size struct {
	Width, Height int // pixels
	Crop          bool
	Animated      bool // a moving picture may stay one
}

func (s size) method() string {
	if s.Crop {
		return "crop"
	}
	return "scale"
}

// The sizes that are made, smallest first: those that the specification asks for ("Thumbnails"), and above
// them some for screens with more pixels. A request is rounded up to one of them, or gets the largest.
var (
	cropSizes  = [...][2]int{{32, 32}, {96, 96}, {256, 256}, {512, 512}}
	scaleSizes = [...][2]int{{320, 240}, {640, 480}, {800, 600}, {1600, 1200}}
)

func (s size) roundedUp() size {
	sizes := scaleSizes[:]
	if s.Crop {
		sizes = cropSizes[:]
	}
	for _, one := range sizes {
		if out := (size{one[0], one[1], s.Crop, s.Animated}); out.Width >= s.Width && out.Height >= s.Height {
			return out
		}
	}
	last := sizes[len(sizes)-1]
	return size{last[0], last[1], s.Crop, s.Animated}
}

// parseSize reads the query of a thumbnail request. Missing or impossible numbers are 400.
func parseSize(query url.Values) (size, error) {
	var s size
	for _, one := range []struct {
		name string
		into *int
	}{{"width", &s.Width}, {"height", &s.Height}} {
		text := query.Get(one.name)
		if text == "" {
			return s, matrix.MissingParam("The parameter " + one.name + " is missing: say how many pixels are wanted")
		}
		n, err := strconv.ParseInt(text, 10, 32)
		if err != nil || n < 1 {
			return s, matrix.InvalidParam("The parameter " + one.name + " must be a whole number of pixels, 1 or more")
		}
		*one.into = int(n)
	}
	switch query.Get("method") {
	case "", "scale":
	case "crop":
		s.Crop = true
	default:
		return s, matrix.InvalidParam("The parameter method must be crop or scale")
	}
	switch query.Get("animated") {
	case "", "false":
	case "true":
		s.Animated = true
	default:
		return s, matrix.InvalidParam("The parameter animated must be true or false")
	}
	return s, nil
}
