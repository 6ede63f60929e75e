package picture

import (
	"bytes"
	"encoding/binary"
	"errors"
	"image"
	"image/color"
	"image/gif"
	"image/jpeg"
	"image/png"
	"testing"

	"golang.org/x/image/bmp"
	"golang.org/x/image/tiff"
)

// halves is red on the left and blue on the right.
func halves(w, h int) *image.NRGBA {
	img := image.NewNRGBA(image.Rect(0, 0, w, h))
	for y := range h {
		for x := range w {
			c := color.NRGBA{R: 255, A: 255}
			if x >= w/2 {
				c = color.NRGBA{B: 255, A: 255}
			}
			img.SetNRGBA(x, y, c)
		}
	}
	return img
}

func must(t testing.TB, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

func limits(w, h int) Options {
	return Options{Width: w, Height: h, MaxPixels: 1e8, MaxMemory: 1 << 29}
}

func encoded(t testing.TB, name string, img image.Image) []byte {
	t.Helper()
	var b bytes.Buffer
	switch name {
	case "png":
		must(t, png.Encode(&b, img))
	case "jpeg":
		must(t, jpeg.Encode(&b, img, nil))
	case "gif":
		must(t, gif.Encode(&b, img, nil))
	case "bmp":
		must(t, bmp.Encode(&b, img))
	case "tiff":
		must(t, tiff.Encode(&b, img, nil))
	}
	return b.Bytes()
}

func TestFormats(t *testing.T) {
	for _, name := range []string{"png", "jpeg", "gif", "bmp", "tiff"} {
		data := encoded(t, name, halves(1000, 500))
		if got := Sniff(data[:SniffLen]); got != name {
			t.Errorf("%s is sniffed as %q", name, got)
		}
		r, err := Thumbnail(data, limits(320, 240))
		if err != nil {
			t.Errorf("%s: %v", name, err)
			continue
		}
		img, _, err := image.Decode(bytes.NewReader(r.Data))
		must(t, err)
		if img.Bounds().Size() != image.Pt(320, 160) || r.Type != "image/jpeg" {
			t.Errorf("%s: %v %s", name, img.Bounds(), r.Type)
		}
		red, _, _, _ := img.At(40, 80).RGBA()
		_, _, blue, _ := img.At(280, 80).RGBA()
		if red < 0xe000 || blue < 0xe000 {
			t.Errorf("%s: red %x, blue %x", name, red, blue)
		}
	}
}

func TestCropFillsTheBox(t *testing.T) {
	o := limits(96, 96)
	o.Crop = true
	for _, size := range []image.Point{{1000, 300}, {300, 1000}, {97, 5000}} {
		r, err := Thumbnail(encoded(t, "png", halves(size.X, size.Y)), o)
		must(t, err)
		if r.Width != 96 || r.Height != 96 {
			t.Errorf("%v became %d x %d", size, r.Width, r.Height)
		}
	}
	r, err := Thumbnail(encoded(t, "png", halves(500, 40)), o)
	must(t, err)
	if r.Width != 40 || r.Height != 40 {
		t.Errorf("enlarged to %d x %d", r.Width, r.Height)
	}
}

func TestSmallPicturesAreTheirOwnThumbnail(t *testing.T) {
	r, err := Thumbnail(encoded(t, "png", halves(20, 10)), limits(320, 240))
	must(t, err)
	if r.Data != nil || r.Type != "image/png" {
		t.Errorf("%d bytes, %s", len(r.Data), r.Type)
	}
	r, err = Thumbnail(encoded(t, "bmp", halves(20, 10)), limits(320, 240))
	must(t, err)
	if r.Type != "image/jpeg" || r.Width != 20 {
		t.Errorf("%s, %d", r.Type, r.Width)
	}
}

func TestMovingPicturesStandStill(t *testing.T) {
	frame := image.NewPaletted(image.Rect(0, 0, 20, 20), color.Palette{color.White, color.Black})
	var b bytes.Buffer
	must(t, gif.EncodeAll(&b, &gif.GIF{Image: []*image.Paletted{frame, frame}, Delay: []int{1, 1}}))
	o := limits(320, 240)
	r, err := Thumbnail(b.Bytes(), o)
	must(t, err)
	if r.Data == nil {
		t.Error("a moving picture was given to somebody who did not ask for one")
	}
	o.Animated = true
	r, err = Thumbnail(b.Bytes(), o)
	must(t, err)
	if r.Data != nil || r.Type != "image/gif" {
		t.Errorf("%d bytes, %s", len(r.Data), r.Type)
	}
}

func TestTransparencyStays(t *testing.T) {
	img := halves(1000, 1000)
	img.SetNRGBA(0, 0, color.NRGBA{})
	for y := range 500 {
		for x := range 500 {
			img.SetNRGBA(x, y, color.NRGBA{})
		}
	}
	r, err := Thumbnail(encoded(t, "png", img), limits(320, 240))
	must(t, err)
	if r.Type != "image/png" {
		t.Errorf("transparent pixels became %s", r.Type)
	}
}

func exif(order binary.AppendByteOrder, o uint16) []byte {
	mark := "II\x2a\x00"
	if order == binary.AppendByteOrder(binary.BigEndian) {
		mark = "MM\x00\x2a"
	}
	b := order.AppendUint32([]byte(mark), 8)
	b = order.AppendUint16(b, 1)
	b = order.AppendUint16(b, 0x0112)
	b = order.AppendUint16(b, 3)
	b = order.AppendUint32(b, 1)
	b = order.AppendUint16(b, o)
	return order.AppendUint32(b, 0)
}

func withExif(jpg, tiff []byte) []byte {
	body := append([]byte("Exif\x00\x00"), tiff...)
	out := append([]byte{0xff, 0xd8, 0xff, 0xe1}, byte((len(body)+2)>>8), byte(len(body)+2))
	return append(append(out, body...), jpg[2:]...)
}

// TestOrientation shows where the red left half of a picture stands once it is upright.
func TestOrientation(t *testing.T) {
	jpg := encoded(t, "jpeg", halves(1000, 500))
	for o, red := range map[uint16]image.Point{
		1: {40, 80}, 2: {280, 80}, 3: {280, 80}, 4: {40, 80}, 5: {60, 30}, 6: {60, 30}, 7: {60, 210}, 8: {60, 210}, 9: {40, 80},
	} {
		for _, order := range []binary.AppendByteOrder{binary.LittleEndian, binary.BigEndian} {
			r, err := Thumbnail(withExif(jpg, exif(order, o)), limits(320, 240))
			must(t, err)
			img, err := jpeg.Decode(bytes.NewReader(r.Data))
			must(t, err)
			if bytes.Contains(r.Data, []byte("Exif")) {
				t.Error("metadata was kept")
			}
			want := image.Pt(320, 160)
			if o >= 5 && o <= 8 {
				want = image.Pt(120, 240)
			}
			c, _, _, _ := img.At(red.X, red.Y).RGBA()
			if img.Bounds().Size() != want || c < 0xe000 {
				t.Errorf("orientation %d: %v, red %x at %v", o, img.Bounds(), c, red)
			}
		}
	}
}

func TestTooLarge(t *testing.T) {
	data := encoded(t, "png", halves(1000, 1000))
	o := limits(96, 96)
	o.MaxPixels = 999_999
	if _, err := Thumbnail(data, o); !errors.Is(err, ErrTooLarge) {
		t.Errorf("pixels: %v", err)
	}
	o = limits(96, 96)
	o.MaxMemory = 1 << 20
	if _, err := Thumbnail(data, o); !errors.Is(err, ErrTooLarge) {
		t.Errorf("memory: %v", err)
	}
	if _, err := Thumbnail(data[:200], limits(96, 96)); !errors.Is(err, ErrBroken) {
		t.Errorf("cut: %v", err)
	}
	if _, err := Thumbnail([]byte("<html>garbage garbage"), limits(96, 96)); !errors.Is(err, ErrUnsupported) {
		t.Errorf("garbage: %v", err)
	}
}

func FuzzContainers(f *testing.F) {
	jpg := encoded(f, "jpeg", halves(8, 8))
	f.Add(withExif(jpg, exif(binary.BigEndian, 6)))
	f.Add(encoded(f, "png", halves(8, 8)))
	f.Add(encoded(f, "gif", halves(8, 8)))
	f.Add(exif(binary.LittleEndian, 3))
	f.Add([]byte("RIFF\x00\x00\x00\x00WEBPVP8X\x0a\x00\x00\x00\x02\x00\x00\x00\x01\x00\x00\x01\x00\x00ANMF\x10\x00\x00\x00"))
	f.Fuzz(func(t *testing.T, data []byte) {
		if o := exifOrientation(data); o < 1 || o > 8 {
			t.Errorf("orientation %d", o)
		}
		format := find(data)
		if format == nil {
			return
		}
		format.moving(data)
		format.firstFrame(data)
		progressive(data)
		if o := format.orientationOf(data); o < 1 || o > 8 {
			t.Errorf("orientation %d", o)
		}
	})
}
