package archive

import (
	"fmt"
	"io"
	"strings"
	"time"
)

// Progress tells people how far the work is. The zero value tells nothing.
type Progress struct {
	Out      io.Writer        // nil: nowhere
	Terminal bool             // lines replace each other, several times a second; otherwise one each 10 s
	Now      func() time.Time // required with Out

	what        string
	unit        string
	began, told time.Time
	done, total int64
}

// step begins a part of the work of total bytes or rows; 0 when unknown.
func (p *Progress) step(what, unit string, total int64) {
	if p == nil || p.Out == nil {
		return
	}
	p.end()
	p.what, p.unit, p.total, p.done = what, unit, total, 0
	p.began = p.Now()
	p.told = p.began
}

func (p *Progress) add(n int64) {
	if p == nil || p.Out == nil {
		return
	}
	p.done += n
	pause := 10 * time.Second
	if p.Terminal {
		pause = 200 * time.Millisecond
	}
	if now := p.Now(); now.Sub(p.told) >= pause {
		p.told = now
		p.tell()
	}
}

func (p *Progress) tell() {
	took := p.Now().Sub(p.began)
	line := fmt.Sprintf("%s: %s", p.what, p.count(p.done))
	if p.total > 0 {
		line += fmt.Sprintf(" of %s (%.0f %%)", p.count(p.total), 100*float64(p.done)/float64(p.total))
		if p.done > 0 && p.done < p.total {
			line += fmt.Sprintf(", %s left", time.Duration(float64(took)*float64(p.total-p.done)/float64(p.done)).Round(time.Second))
		}
	}
	if p.Terminal {
		_, _ = fmt.Fprintf(p.Out, "\r\x1b[K%s", line) // who does not see it misses nothing
		return
	}
	_, _ = fmt.Fprintln(p.Out, line)
}

// end leaves the last line of a step as it is when all was done.
func (p *Progress) end() {
	if p == nil || p.Out == nil || p.what == "" {
		return
	}
	if p.Terminal {
		p.tell()
		_, _ = fmt.Fprintln(p.Out)
	}
	p.what = ""
}

func (p *Progress) count(n int64) string {
	if p.unit == "bytes" {
		return Bytes10(n)
	}
	return fmt.Sprintf("%s %s", thousands(n), p.unit)
}

// Bytes10 prints a number of bytes in units of powers of ten.
func Bytes10(n int64) string {
	units := []string{"B", "kB", "MB", "GB", "TB", "PB"}
	v, i := float64(n), 0
	for v >= 1000 && i < len(units)-1 {
		v, i = v/1000, i+1
	}
	if i == 0 {
		return fmt.Sprintf("%d B", n)
	}
	return fmt.Sprintf("%.1f %s", v, units[i])
}

func thousands(n int64) string {
	s := fmt.Sprint(n)
	var b strings.Builder
	for i, c := range s {
		if i > 0 && (len(s)-i)%3 == 0 {
			b.WriteByte(',')
		}
		b.WriteRune(c)
	}
	return b.String()
}
