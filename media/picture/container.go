package picture

import (
	"bytes"
	"encoding/binary"
	"iter"
)

// jpegSegments walks the segments before the picture data (ITU-T T.81, annex B).
func jpegSegments(data []byte) iter.Seq2[byte, []byte] {
	return func(yield func(byte, []byte) bool) {
		for at := 2; at+4 <= len(data); {
			if data[at] != 0xff {
				return
			}
			marker := data[at+1]
			if marker == 0xff { // fill bytes
				at++
				continue
			}
			if marker == 0x01 || marker >= 0xd0 && marker <= 0xd7 {
				at += 2
				continue
			}
			length := int(binary.BigEndian.Uint16(data[at+2:]))
			if marker == 0xda || marker == 0xd9 || length < 2 || at+2+length > len(data) {
				return
			}
			if !yield(marker, data[at+4:at+2+length]) {
				return
			}
			at += 2 + length
		}
	}
}

// progressive tells that a JPEG keeps all its coefficients while it is decoded.
func progressive(data []byte) bool {
	for marker := range jpegSegments(data) {
		switch marker {
		case 0xc2, 0xc6, 0xca, 0xce:
			return true
		case 0xc0, 0xc1:
			return false
		}
	}
	return false
}

// pngChunks walks the chunks of a PNG (W3C PNG, 5.3).
func pngChunks(data []byte) iter.Seq2[string, []byte] {
	return func(yield func(string, []byte) bool) {
		for at := 8; at+12 <= len(data); {
			length := int(binary.BigEndian.Uint32(data[at:]))
			if length > len(data)-at-12 {
				return
			}
			if !yield(string(data[at+4:at+8]), data[at+8:at+8+length]) {
				return
			}
			at += 12 + length
		}
	}
}

// riffChunks walks chunks of a WebP (RFC 9649, 2.3).
func riffChunks(data []byte) iter.Seq2[string, []byte] {
	return func(yield func(string, []byte) bool) {
		for at := 0; at+8 <= len(data); {
			length := int(binary.LittleEndian.Uint32(data[at+4:]))
			if length > len(data)-at-8 {
				return
			}
			if !yield(string(data[at:at+4]), data[at+8:at+8+length]) {
				return
			}
			at += 8 + length + length&1
		}
	}
}

const riffHeader = 12 // "RIFF", size, "WEBP"

// moving tells that the file has more than one frame.
func (f *format) moving(data []byte) bool {
	switch f.name {
	case "gif":
		return gifFrames(data, 2) > 1
	case "png":
		for name := range pngChunks(data) {
			if name == "acTL" || name == "IDAT" {
				return name == "acTL"
			}
		}
	case "webp":
		const animation = 0x02
		for name, body := range riffChunks(data[riffHeader:]) {
			return name == "VP8X" && len(body) > 0 && body[0]&animation != 0
		}
	}
	return false
}

// gifFrames counts frames up to a limit (GIF89a, appendix A).
func gifFrames(data []byte, limit int) (frames int) {
	if len(data) < 13 {
		return 0
	}
	table := func(flags byte) int {
		if flags&0x80 == 0 {
			return 0
		}
		return 3 << (flags&7 + 1)
	}
	at := 13 + table(data[10])
	skip := func() {
		for at < len(data) && data[at] != 0 {
			at += 1 + int(data[at])
		}
		at++
	}
	for at < len(data) && frames < limit {
		switch data[at] {
		case 0x21: // an extension
			at += 2
			skip()
		case 0x2c: // a frame
			frames++
			if at+9 >= len(data) {
				return frames
			}
			at += 10 + table(data[at+9]) + 1
			skip()
		default:
			return frames
		}
	}
	return frames
}

// firstFrame makes a still WebP of a moving one, for the decoder knows only still ones. Other files are
// returned as they are. The frame stands alone: its place on the canvas is dropped.
func (f *format) firstFrame(data []byte) []byte {
	if f.name != "webp" || !f.moving(data) {
		return data
	}
	for name, frame := range riffChunks(data[riffHeader:]) {
		const head = 16 // of a frame: place, size, duration, flags
		if name != "ANMF" || len(frame) < head {
			continue
		}
		var out bytes.Buffer
		out.WriteString("RIFF\x00\x00\x00\x00WEBP")
		for inner := range riffChunks(frame[head:]) {
			if inner == "ALPH" {
				const alpha = 0x10
				extended := append([]byte{alpha, 0, 0, 0}, frame[6:12]...) // width and height less one
				out.WriteString("VP8X\x0a\x00\x00\x00")
				out.Write(extended)
			}
			break
		}
		out.Write(frame[head:])
		still := out.Bytes()
		binary.LittleEndian.PutUint32(still[4:], uint32(len(still)-8))
		return still
	}
	return data
}
