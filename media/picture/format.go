package picture

import (
	"bytes"
	"image"
	"image/color"
	"image/draw"
	"image/gif"
	"image/jpeg"
	"image/png"
	"io"

	"golang.org/x/image/bmp"
	"golang.org/x/image/tiff"
	"golang.org/x/image/webp"
)

// SniffLen is how many bytes Sniff looks at.
const SniffLen = 16

// Sniff tells the format of a file by its first bytes: png, jpeg, gif, webp, bmp, tiff or "".
func Sniff(head []byte) string {
	if f := find(head); f != nil {
		return f.name
	}
	return ""
}

// format is a kind of file that can be decoded.
type format struct {
	name   string
	mime   string // type under which browsers show the file itself; "" when they do not
	magic  []string
	config func(io.Reader) (image.Config, error)
	decode func(io.Reader) (image.Image, error)
}

// A question mark stands for any byte.
var formats = [...]format{
	{"png", "image/png", []string{"\x89PNG\r\n\x1a\n"}, png.DecodeConfig, png.Decode},
	{"jpeg", "image/jpeg", []string{"\xff\xd8\xff"}, jpeg.DecodeConfig, jpeg.Decode},
	{"gif", "image/gif", []string{"GIF87a", "GIF89a"}, gif.DecodeConfig, gif.Decode},
	{"webp", "image/webp", []string{"RIFF????WEBPVP8"}, webp.DecodeConfig, webp.Decode},
	{"bmp", "", []string{"BM????\x00\x00\x00\x00"}, bmp.DecodeConfig, bmp.Decode},
	{"tiff", "", []string{"II\x2a\x00", "MM\x00\x2a"}, tiff.DecodeConfig, tiff.Decode},
}

func find(head []byte) *format {
	for i := range formats {
		for _, magic := range formats[i].magic {
			if matches(head, magic) {
				return &formats[i]
			}
		}
	}
	return nil
}

func matches(head []byte, magic string) bool {
	if len(head) < len(magic) {
		return false
	}
	for i := range len(magic) {
		if magic[i] != '?' && magic[i] != head[i] {
			return false
		}
	}
	return true
}

// decodeBytes estimates the memory that decoding takes, from the header alone.
func (f *format) decodeBytes(data []byte, c image.Config) int64 {
	pixels := int64(c.Width) * int64(c.Height)
	var each int64
	switch c.ColorModel {
	case color.GrayModel:
		each = 1
	case color.Gray16Model:
		each = 2
	case color.YCbCrModel:
		each = 3
	case color.RGBA64Model, color.NRGBA64Model:
		each = 8
	default:
		each = 4
		if _, ok := c.ColorModel.(color.Palette); ok {
			each = 1
		}
	}
	switch {
	case f.name == "jpeg" && progressive(data):
		each *= 5 // a coefficient of four bytes for each sample
	case f.name == "png" && len(data) > 28 && data[28] != 0:
		each *= 2 // the passes of an interlaced file
	case f.name == "webp":
		each = 8 // lossless files are decoded twice over, and the header does not tell
	case f.name == "gif":
		each = 5 // a frame may be put on a canvas of its own
	}
	return pixels * each
}

// decodeFirst decodes the first frame on a canvas of the size that the header tells.
func (f *format) decodeFirst(data []byte, c image.Config) (image.Image, error) {
	img, err := f.decode(bytes.NewReader(data))
	if err != nil {
		return nil, err
	}
	canvas := image.Rect(0, 0, c.Width, c.Height)
	if f.name != "gif" || img.Bounds() == canvas {
		return img, nil
	}
	whole := image.NewRGBA(canvas)
	draw.Draw(whole, img.Bounds(), img, img.Bounds().Min, draw.Src)
	return whole, nil
}
