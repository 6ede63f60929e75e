package picture

import (
	"image"
	"math"

	"golang.org/x/image/draw"
)

// fit chooses the part of the source to show and the size to show it in. Nothing is enlarged.
func fit(source image.Rectangle, box image.Point, crop bool) (part image.Rectangle, size image.Point) {
	w, h := float64(source.Dx()), float64(source.Dy())
	across, down := float64(box.X)/w, float64(box.Y)/h
	if !crop {
		by := min(across, down, 1)
		return source, image.Pt(pixels(w*by), pixels(h*by))
	}
	// The box shrinks where the source does not fill it, and keeps its shape.
	by := min(max(across, down), 1)
	fill := min(1, w/float64(box.X), h/float64(box.Y))
	size = image.Pt(pixels(float64(box.X)*fill), pixels(float64(box.Y)*fill))
	cut := image.Pt(min(source.Dx(), pixels(float64(size.X)/by)), min(source.Dy(), pixels(float64(size.Y)/by)))
	corner := source.Min.Add(image.Pt((source.Dx()-cut.X)/2, (source.Dy()-cut.Y)/2))
	return image.Rectangle{Min: corner, Max: corner.Add(cut)}, size
}

func pixels(x float64) int { return max(1, int(math.Round(x))) }

// maxReduction keeps the sum of a square within 32 bits.
const maxReduction = 4096

// scale shows a part of img in a size. Large pictures are first reduced by averaging squares of pixels to
// two to three times the size, which costs one pass and little memory; the rest is done with a Catmull-Rom kernel.
func scale(img image.Image, part image.Rectangle, size image.Point) *image.RGBA {
	by := min(part.Dx()/(2*size.X), part.Dy()/(2*size.Y), maxReduction)
	out := image.NewRGBA(image.Rectangle{Max: size})
	if by < 2 {
		draw.CatmullRom.Scale(out, out.Rect, img, part, draw.Src, nil)
		return out
	}
	reduced := reduce(img, part, by)
	draw.CatmullRom.Scale(out, out.Rect, reduced, reduced.Rect, draw.Src, nil)
	return out
}

// reduce makes one pixel of each square of by x by pixels. The last column and row may be less than a
// square: they are averages of what is there.
func reduce(img image.Image, part image.Rectangle, by int) *image.RGBA {
	width, height := part.Dx(), part.Dy()
	out := image.NewRGBA(image.Rect(0, 0, (width+by-1)/by, (height+by-1)/by))
	strip := image.NewRGBA(image.Rect(0, 0, width, 1))
	sums := make([]uint32, 4*out.Rect.Dx())
	for row := range out.Rect.Dy() {
		clear(sums)
		rows := min(by, height-row*by)
		for line := range rows {
			draw.Draw(strip, strip.Rect, img, part.Min.Add(image.Pt(0, row*by+line)), draw.Src)
			for x := range width {
				sum, pixel := sums[x/by*4:][:4], strip.Pix[4*x:][:4]
				sum[0] += uint32(pixel[0])
				sum[1] += uint32(pixel[1])
				sum[2] += uint32(pixel[2])
				sum[3] += uint32(pixel[3])
			}
		}
		line := out.Pix[row*out.Stride:]
		for x := range out.Rect.Dx() {
			n := uint32(rows * min(by, width-x*by))
			for c := range 4 {
				line[4*x+c] = uint8((sums[4*x+c] + n/2) / n)
			}
		}
	}
	return out
}

// turned turns and mirrors a picture so that it stands upright.
func turned(img *image.RGBA, o orientation) *image.RGBA {
	if o <= upright || o > 8 {
		return img
	}
	w, h := img.Rect.Dx(), img.Rect.Dy()
	out := image.NewRGBA(image.Rect(0, 0, w, h))
	if o.swaps() {
		out = image.NewRGBA(image.Rect(0, 0, h, w))
	}
	for y := range h {
		for x := range w {
			var to image.Point
			switch o {
			case 2:
				to = image.Pt(w-1-x, y)
			case 3:
				to = image.Pt(w-1-x, h-1-y)
			case 4:
				to = image.Pt(x, h-1-y)
			case 5:
				to = image.Pt(y, x)
			case 6:
				to = image.Pt(h-1-y, x)
			case 7:
				to = image.Pt(h-1-y, w-1-x)
			default:
				to = image.Pt(y, w-1-x)
			}
			copy(out.Pix[out.PixOffset(to.X, to.Y):][:4], img.Pix[img.PixOffset(x, y):][:4])
		}
	}
	return out
}
