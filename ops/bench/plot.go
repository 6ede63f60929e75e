package bench

import (
	"fmt"
	"io"
	"strings"
)

// SVG draws the run: what was done in each second as bars, p50 and p95 as lines over a scale of their own.
func (r *Result) SVG(w io.Writer) error {
	const width, height, left, right, top, bottom = 860, 380, 60, 60, 60, 40
	most, slow := int64(1), 1.0
	for _, p := range r.Timeline {
		most, slow = max(most, p.Count), max(slow, p.P95)
	}
	n := max(1, len(r.Timeline))
	x := func(i int) float64 { return left + (float64(i)+0.5)*float64(width-left-right)/float64(n) }
	y := func(share float64) float64 { return height - bottom - share*(height-top-bottom) }
	var b strings.Builder
	fmt.Fprintf(&b, `<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 %d %d" font-family="sans-serif" font-size="12">`+"\n", width, height)
	fmt.Fprintf(&b, `<rect width="%d" height="%d" fill="#fff"/>`+"\n", width, height)
	fmt.Fprintf(&b, `<text x="%d" y="22" font-size="15">%s: %.0f per second, p50 %.1f ms, p95 %.1f ms</text>`+"\n", left, r.Mode, r.PerSecond,
		r.Latency["p50"], r.Latency["p95"])
	fmt.Fprintf(&b, `<text x="%d" y="42" fill="#555">bars: done per second (left) · lines: p50 blue, p95 red, in ms (right)`+
		` · check: %s</text>`+"\n", left, escape(r.Check))
	for i := range 5 {
		share := float64(i) / 4
		fmt.Fprintf(&b, `<line x1="%d" x2="%d" y1="%.1f" y2="%.1f" stroke="#ddd"/>`, left, width-right, y(share), y(share))
		fmt.Fprintf(&b, `<text x="%d" y="%.1f" text-anchor="end">%.0f</text>`, left-6, y(share)+4, share*float64(most))
		fmt.Fprintf(&b, `<text x="%d" y="%.1f">%.1f</text>`+"\n", width-right+6, y(share)+4, share*slow)
	}
	bar := max(1, float64(width-left-right)/float64(n)-2)
	var p50, p95 strings.Builder
	for i, p := range r.Timeline {
		top := y(float64(p.Count) / float64(most))
		fmt.Fprintf(&b, `<rect x="%.1f" y="%.1f" width="%.1f" height="%.1f" fill="#cfd8dc"/>`+"\n", x(i)-bar/2, top, bar, y(0)-top)
		fmt.Fprintf(&p50, "%.1f,%.1f ", x(i), y(p.P50/slow))
		fmt.Fprintf(&p95, "%.1f,%.1f ", x(i), y(p.P95/slow))
	}
	fmt.Fprintf(&b, `<polyline points="%s" fill="none" stroke="#1565c0" stroke-width="2"/>`+"\n", p50.String())
	fmt.Fprintf(&b, `<polyline points="%s" fill="none" stroke="#c62828" stroke-width="2"/>`+"\n", p95.String())
	fmt.Fprintf(&b, `<text x="%d" y="%d" text-anchor="middle">seconds</text></svg>`+"\n", width/2, height-10)
	_, err := io.WriteString(w, b.String())
	return err
}

func escape(s string) string {
	return strings.NewReplacer("&", "&amp;", "<", "&lt;", ">", "&gt;").Replace(s)
}
