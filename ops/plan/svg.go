package plan

import (
	"fmt"
	"io"
	"math"
	"strings"
)

// palette has eight hues that stay apart on white and on black, also for those who see red and green alike.
var palette = []string{"#4477aa", "#ee6677", "#228833", "#ccaa22", "#3399cc", "#aa3377", "#e07b39", "#888888"}

// chart is a panel of bars stacked by role, a pair of bars for each size.
type chart struct {
	b           strings.Builder
	left, width float64
}

// barGroup is one size: Lyceum's parts by role, and the guide's.
type barGroup struct {
	label  string
	ours   []float64
	guides []float64 // by guide worker
}

const (
	svgWidth, svgHeight   = 1040.0, 760.0
	panelTop, panelHeight = 86.0, 250.0
	panelGap, panelLeft   = 70.0, 70.0
	panelRight, legendTop = 20.0, 706.0
	guideHue              = "#99aabb"
	svgStyle              = `text{fill:#222}.soft{fill:#666}.grid{stroke:#ddd}.back{fill:#fff}` +
		`@media (prefers-color-scheme:dark){text{fill:#e8e8e8}.soft{fill:#aaa}.grid{stroke:#444}.back{fill:#16181d}}`
	shownRoles = 7
)

// SVG draws processes and cores by role over the sizes, Lyceum beside the guide. It has no script and is
// readable on light and dark pages.
func (r *Report) SVG(w io.Writer) error {
	c := &chart{left: panelLeft, width: svgWidth - panelLeft - panelRight}
	names := r.largest()
	fmt.Fprintf(&c.b, `<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 %.0f %.0f" font-family="system-ui,sans-serif" `+
		`font-size="12" role="img">`+"\n", svgWidth, svgHeight)
	fmt.Fprintf(&c.b, `<title>Plan: processes and cores by number of concurrent users</title><style>%s</style>`+
		`<rect class="back" width="%.0f" height="%.0f"/>`+"\n", svgStyle, svgWidth, svgHeight)
	fmt.Fprintf(&c.b, `<text x="%.0f" y="28" font-size="17">Processes and cores by number of concurrent users</text>`+"\n", panelLeft)
	fmt.Fprintf(&c.b, `<text class="soft" x="%.0f" y="48">left bar: Lyceum, each role its own processes · `+
		`right bar: the Synapse guide's examples`+
		` (beyond 20,000 users: its formulas), one core a worker</text>`+"\n", panelLeft)
	var replicas, cores []barGroup
	for _, s := range r.Steps {
		g, h := barGroup{label: number(s.Load.ConcurrentUsers)}, barGroup{label: number(s.Load.ConcurrentUsers)}
		n := guideTotal(s.Load)
		g.guides, h.guides = []float64{n}, []float64{n}
		g.ours, h.ours = make([]float64, len(names)+1), make([]float64, len(names)+1)
		for _, x := range s.Roles {
			at := len(names)
			for i, name := range names {
				if name == x.Role {
					at = i
				}
			}
			g.ours[at] += float64(x.Replicas)
			h.ours[at] += float64(x.Replicas) * x.CPU
		}
		replicas, cores = append(replicas, g), append(cores, h)
	}
	c.panel(panelTop, "processes", replicas)
	c.panel(panelTop+panelHeight+panelGap, "cores requested", cores)
	x := panelLeft
	for i, name := range append(names, "other roles") {
		c.key(&x, palette[i%len(palette)], name)
	}
	c.key(&x, guideHue, "Synapse guide")
	m := r.Plan.Measured
	fmt.Fprintf(&c.b, `<text class="soft" x="%.0f" y="%.0f">measured: %s, %d cores, Lyceum %s, %s</text>`+"\n</svg>\n", panelLeft,
		svgHeight-14, escape(m.CPU), m.Cores, escape(m.Version), m.At.Format("2 January 2006"))
	_, err := io.WriteString(w, c.b.String())
	return err
}

// largest are the roles with the most cores at the largest size, in the order of the table.
func (r *Report) largest() []string {
	last := r.Steps[len(r.Steps)-1]
	var names []string
	for _, x := range last.Roles {
		more := 0
		for _, y := range last.Roles {
			if float64(y.Replicas)*y.CPU > float64(x.Replicas)*x.CPU {
				more++
			}
		}
		if more < shownRoles && len(names) < shownRoles && float64(x.Replicas)*x.CPU > 0 {
			names = append(names, x.Role)
		}
	}
	return names
}

// guideTotal adds up the guide's workers for a load: its examples where it has them, else its formulas.
func guideTotal(l Load) (n float64) {
	for _, g := range Guide(l) {
		switch {
		case g.Guide != synapse:
		case g.Most > 0:
			n += g.Most
		default:
			n += g.Value
		}
	}
	return n
}

// panel draws the groups on a logarithmic scale: totals grow from a few to hundreds.
func (c *chart) panel(top float64, title string, groups []barGroup) {
	most := 10.0
	for _, g := range groups {
		most = max(most, sum(g.ours), sum(g.guides))
	}
	top10 := math.Ceil(math.Log10(most)*2) / 2
	y := func(v float64) float64 {
		return top + panelHeight*(1-max(0, math.Log10(max(v, 0.5)/0.5))/(top10-math.Log10(0.5)))
	}
	fmt.Fprintf(&c.b, `<text x="%.0f" y="%.0f" font-size="14">%s</text>`+
		`<text class="soft" x="%.0f" y="%.0f" text-anchor="end">logarithmic scale; colours show each role's share of the bar</text>`+"\n",
		c.left, top-10, title, c.left+c.width, top-10)
	for _, v := range []float64{1, 2, 5, 10, 20, 50, 100, 200, 500, 1000, 2000, 5000} {
		if math.Log10(v) <= top10 {
			fmt.Fprintf(&c.b, `<line class="grid" x1="%.1f" x2="%.1f" y1="%.1f" y2="%.1f"/>`+
				`<text class="soft" x="%.1f" y="%.1f" text-anchor="end">%s</text>`+"\n",
				c.left, c.left+c.width, y(v), y(v), c.left-8, y(v)+4, number(v))
		}
	}
	step := c.width / float64(len(groups))
	bar := min(46, step/2-14)
	for i, g := range groups {
		mid := c.left + (float64(i)+0.5)*step
		c.stack(mid-bar-2, bar, y, g.ours)
		total := sum(g.guides)
		fmt.Fprintf(&c.b, `<rect x="%.1f" y="%.1f" width="%.1f" height="%.1f" fill="%s"><title>Synapse guide: %s</title></rect>`+"\n", mid+2,
			y(total), bar, y(0.5)-y(total), guideHue, number(total))
		fmt.Fprintf(&c.b, `<text x="%.1f" y="%.1f" text-anchor="middle">%s</text>`, mid-bar/2-2, y(sum(g.ours))-5,
			number(math.Round(sum(g.ours)*10)/10))
		fmt.Fprintf(&c.b, `<text class="soft" x="%.1f" y="%.1f" text-anchor="middle">%s</text>`, mid+bar/2+2, y(total)-5, number(total))
		fmt.Fprintf(&c.b, `<text x="%.1f" y="%.1f" text-anchor="middle">%s users</text>`+"\n", mid, top+panelHeight+18, g.label)
	}
}

// stack divides the height of a bar by the shares of its parts: on a logarithmic scale their own heights would lie.
func (c *chart) stack(x, width float64, y func(float64) float64, parts []float64) {
	total := sum(parts)
	if total == 0 {
		return
	}
	height, at := y(0.5)-y(total), y(0.5)
	for i, v := range parts {
		if v == 0 {
			continue
		}
		h := height * v / total
		at -= h
		fmt.Fprintf(&c.b, `<rect x="%.1f" y="%.1f" width="%.1f" height="%.1f" fill="%s"/>`, x, at, width, h, palette[i%len(palette)])
	}
	c.b.WriteString("\n")
}

func (c *chart) key(x *float64, hue, name string) {
	fmt.Fprintf(&c.b, `<rect x="%.0f" y="%.0f" width="12" height="12" fill="%s"/><text x="%.0f" y="%.0f">%s</text>`+"\n", *x, legendTop, hue,
		*x+18, legendTop+10, escape(name))
	*x += 40 + 7*float64(len(name))
}

func sum(list []float64) (n float64) {
	for _, v := range list {
		n += v
	}
	return n
}

func escape(s string) string {
	return strings.NewReplacer("&", "&amp;", "<", "&lt;", ">", "&gt;").Replace(s)
}
