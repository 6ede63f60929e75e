package picture

import (
	"bytes"
	"encoding/binary"
)

// orientation is how a picture must be turned to stand upright (Exif 3.0, 4.6.5): 1 is not at all, 2 to 8
// are mirrored and turned.
type orientation int

const upright orientation = 1

// swaps tells that width and height change places.
func (o orientation) swaps() bool { return o >= 5 }

// orientationOf finds the orientation in the metadata of a file; broken metadata is upright.
func (f *format) orientationOf(data []byte) orientation {
	switch f.name {
	case "tiff":
		return exifOrientation(data)
	case "jpeg":
		for marker, body := range jpegSegments(data) {
			if rest, ok := bytes.CutPrefix(body, []byte("Exif\x00\x00")); ok && marker == 0xe1 {
				return exifOrientation(rest)
			}
		}
	case "png":
		for name, body := range pngChunks(data) {
			if name == "eXIf" {
				return exifOrientation(body)
			}
		}
	case "webp":
		for name, body := range riffChunks(data[riffHeader:]) {
			if name == "EXIF" {
				return exifOrientation(bytes.TrimPrefix(body, []byte("Exif\x00\x00")))
			}
		}
	}
	return upright
}

// exifOrientation reads tag 0x0112 of the first directory of a TIFF structure (TIFF 6.0, section 2).
func exifOrientation(data []byte) orientation {
	const (
		tagOrientation = 0x0112
		typeShort      = 3
		entrySize      = 12
	)
	if len(data) < 8 {
		return upright
	}
	var order binary.ByteOrder
	switch string(data[:4]) {
	case "II\x2a\x00":
		order = binary.LittleEndian
	case "MM\x00\x2a":
		order = binary.BigEndian
	default:
		return upright
	}
	at := int64(order.Uint32(data[4:]))
	if at+2 > int64(len(data)) {
		return upright
	}
	entries := data[at+2:]
	for range order.Uint16(data[at:]) {
		if len(entries) < entrySize {
			break
		}
		if order.Uint16(entries) == tagOrientation && order.Uint16(entries[2:]) == typeShort && order.Uint32(entries[4:]) == 1 {
			if o := orientation(order.Uint16(entries[8:])); o >= 1 && o <= 8 {
				return o
			}
			break
		}
		entries = entries[entrySize:]
	}
	return upright
}
