package picture

import (
	"bytes"
	"errors"
	"fmt"
	"image"
	"image/jpeg"
	"image/png"
)

var (
	// ErrUnsupported is returned for files that are no picture of a known format.
	ErrUnsupported = errors.New("not a picture of a known format")
	// ErrBroken is returned for pictures that can not be decoded.
	ErrBroken = errors.New("the picture is broken")
	// ErrTooLarge is returned for pictures with more pixels than allowed, or that need more memory.
	ErrTooLarge = errors.New("the picture is too large")
)

const jpegQuality = 85

// Options say what is wanted and how much work it may be.
type Options struct {
	Width, Height int   // pixels of the box, 1 or more
	Crop          bool  // fill the box and cut what stands out, instead of fitting into it
	Animated      bool  // a moving picture that is small enough may be shown as it is
	MaxPixels     int64 // of the source
	MaxMemory     int64 // bytes that decoding may take
}

// Result is a thumbnail.
type Result struct {
	Data          []byte // nil: the source itself is to be shown
	Type          string // image/png, image/jpeg, and for a source itself also image/gif and image/webp
	Width, Height int    // pixels
}

// Thumbnail makes a thumbnail of a file. It never enlarges: what fits into the box keeps its size, and a
// still picture that every browser shows is then its own thumbnail.
func Thumbnail(data []byte, o Options) (*Result, error) {
	f := find(data)
	if f == nil {
		return nil, ErrUnsupported
	}
	if o.Width < 1 || o.Height < 1 {
		return nil, fmt.Errorf("thumbnail: expected a box of 1 pixel or more, found %d x %d", o.Width, o.Height)
	}
	moving := f.moving(data)
	turn := f.orientationOf(data)
	c, err := f.size(data, o.MaxPixels)
	if err != nil {
		return nil, err
	}
	upWidth, upHeight := c.Width, c.Height
	if turn.swaps() {
		upWidth, upHeight = upHeight, upWidth
	}
	if upWidth <= o.Width && upHeight <= o.Height && f.mime != "" && (!moving || o.Animated) {
		return &Result{Type: f.mime, Width: upWidth, Height: upHeight}, nil
	}
	still := f.firstFrame(data)
	if c, err = f.size(still, o.MaxPixels); err != nil {
		return nil, err
	}
	if need := f.decodeBytes(still, c); need > o.MaxMemory {
		return nil, fmt.Errorf("%w: decoding takes %d bytes", ErrTooLarge, need)
	}
	img, err := f.decodeFirst(still, c)
	if err != nil {
		return nil, fmt.Errorf("%w: %w", ErrBroken, err)
	}
	box := image.Pt(o.Width, o.Height)
	if turn.swaps() {
		box = image.Pt(o.Height, o.Width)
	}
	part, size := fit(img.Bounds(), box, o.Crop)
	small := turned(scale(img, part, size), turn)
	return encode(small)
}

// size reads the header and holds it against the limit.
func (f *format) size(data []byte, maxPixels int64) (image.Config, error) {
	c, err := f.config(bytes.NewReader(data))
	if err != nil {
		return c, fmt.Errorf("%w: %w", ErrBroken, err)
	}
	if c.Width < 1 || c.Height < 1 {
		return c, fmt.Errorf("%w: it has no pixels", ErrBroken)
	}
	if int64(c.Width) > maxPixels/int64(c.Height) {
		return c, fmt.Errorf("%w: %d x %d pixels", ErrTooLarge, c.Width, c.Height)
	}
	return c, nil
}

// encode writes what is opaque as JPEG, and the rest as PNG.
func encode(img *image.RGBA) (*Result, error) {
	r := &Result{Type: "image/jpeg", Width: img.Rect.Dx(), Height: img.Rect.Dy()}
	var out bytes.Buffer
	var err error
	if img.Opaque() {
		err = jpeg.Encode(&out, img, &jpeg.Options{Quality: jpegQuality})
	} else {
		r.Type = "image/png"
		err = png.Encode(&out, img)
	}
	r.Data = out.Bytes()
	return r, err
}
