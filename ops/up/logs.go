package up

import (
	"bytes"
	"io"
	"os"
)

// maxLogRead is how much of a log is read at once, in bytes.
const maxLogRead = 1 << 20

// LastLines gives up to n lines from the end of a file, and where the file ends.
func LastLines(path string, n int) (text string, end int64, err error) {
	f, err := os.Open(path)
	if err != nil {
		return "", 0, err
	}
	defer f.Close()
	info, err := f.Stat()
	if err != nil {
		return "", 0, err
	}
	size := info.Size()
	b := make([]byte, min(size, maxLogRead))
	if _, err := f.ReadAt(b, size-int64(len(b))); err != nil && err != io.EOF {
		return "", 0, err
	}
	at := len(b)
	for lines := 0; at > 0; at-- {
		if b[at-1] == '\n' && at < len(b) {
			if lines++; lines == n {
				break
			}
		}
	}
	return string(b[at:]), size, nil
}

// LinesFrom gives the whole lines of a file after offset, and where the next ones begin.
func LinesFrom(path string, offset int64) (text string, end int64, err error) {
	f, err := os.Open(path)
	if err != nil {
		return "", offset, err
	}
	defer f.Close()
	b, err := io.ReadAll(io.NewSectionReader(f, offset, maxLogRead))
	if err != nil {
		return "", offset, err
	}
	whole := b[:bytes.LastIndexByte(b, '\n')+1]
	return string(whole), offset + int64(len(whole)), nil
}
