package plan

import (
	"encoding/json"
	"fmt"
	"io"
	"math"
	"slices"
	"strings"
	"unicode/utf8"
)

// Report is a plan with what stands beside it.
type Report struct {
	Plan     *Plan      `json:"plan"`
	Steps    []*Plan    `json:"steps"`    // the same community at other sizes
	Guide    []GuideRow `json:"guide"`    // what the guides say for the load
	Examples []GuideRow `json:"examples"` // all examples of the guides beside their formulas
}

// NewReport plans the load and the sizes of Steps.
func NewReport(l Load, c *Capacities, roles []Role) (*Report, error) {
	if err := l.Validate(); err != nil {
		return nil, err
	}
	r := &Report{Plan: Make(l, c, roles), Guide: Guide(l), Examples: GuideExamples()}
	sizes := slices.Clone(Steps)
	if l.ConcurrentUsers > 0 && !slices.Contains(sizes, l.ConcurrentUsers) {
		sizes = append(sizes, l.ConcurrentUsers)
		slices.Sort(sizes)
	}
	for _, users := range sizes {
		r.Steps = append(r.Steps, Make(l.scale(users), c, roles))
	}
	return r, nil
}

// JSON writes all of it.
func (r *Report) JSON(w io.Writer) error {
	e := json.NewEncoder(w)
	e.SetIndent("", "  ")
	return e.Encode(r)
}

// table is rows of cells, the first of which are headings.
type table struct {
	rows  [][]string
	right []int // columns of numbers
}

func (t *table) add(cells ...string) { t.rows = append(t.rows, cells) }

// text aligns the columns; the last is not padded.
func (t *table) text(b *strings.Builder) {
	width := make([]int, len(t.rows[0]))
	for _, row := range t.rows {
		for i, cell := range row {
			width[i] = max(width[i], utf8.RuneCountInString(cell))
		}
	}
	for _, row := range t.rows {
		line := " "
		for i, cell := range row {
			pad := strings.Repeat(" ", width[i]-utf8.RuneCountInString(cell))
			if slices.Contains(t.right, i) {
				line += " " + pad + cell + " "
			} else {
				line += " " + cell + pad + " "
			}
		}
		b.WriteString(strings.TrimRight(line, " ") + "\n")
	}
}

func (t *table) markdown(b *strings.Builder) {
	for i, row := range t.rows {
		b.WriteString("| " + strings.ReplaceAll(strings.Join(row, " | "), "\n", " ") + " |\n")
		if i == 0 {
			for c := range row {
				b.WriteString("|---")
				if slices.Contains(t.right, c) {
					b.WriteString(":")
				}
			}
			b.WriteString("|\n")
		}
	}
}

// section is a heading, a paragraph, a table and remarks: what text and Markdown are both made from.
type section struct {
	heading string
	lead    []string
	table   *table
	after   []string
}

// Text writes the report for a terminal.
func (r *Report) Text(w io.Writer) error {
	var b strings.Builder
	for i, s := range r.sections() {
		if i > 0 {
			b.WriteString("\n")
		}
		b.WriteString(strings.ToUpper(s.heading) + "\n")
		for _, l := range s.lead {
			b.WriteString(wrap(l, 118, "  "))
		}
		if s.table != nil {
			if len(s.lead) > 0 {
				b.WriteString("\n")
			}
			s.table.text(&b)
		}
		for _, l := range s.after {
			b.WriteString(wrap("- "+l, 116, "  "))
		}
	}
	_, err := io.WriteString(w, b.String())
	return err
}

// Markdown writes the report as a page.
func (r *Report) Markdown(w io.Writer) error {
	var b strings.Builder
	for i, s := range r.sections() {
		level := "## "
		if i == 0 {
			level = "# "
		}
		b.WriteString(level + s.heading + "\n\n")
		for _, l := range s.lead {
			b.WriteString(l + "\n\n")
		}
		if s.table != nil {
			s.table.markdown(&b)
			b.WriteString("\n")
		}
		for _, l := range s.after {
			b.WriteString("- " + l + "\n")
		}
		if len(s.after) > 0 {
			b.WriteString("\n")
		}
	}
	_, err := io.WriteString(w, strings.TrimRight(b.String(), "\n")+"\n")
	return err
}

// wrap breaks a paragraph into lines.
func wrap(text string, width int, indent string) string {
	var b strings.Builder
	line := indent
	for _, word := range strings.Fields(text) {
		if utf8.RuneCountInString(line)+utf8.RuneCountInString(word) > width && strings.TrimSpace(line) != "" {
			b.WriteString(strings.TrimRight(line, " ") + "\n")
			line = indent
			if strings.HasPrefix(text, "- ") {
				line += "  "
			}
		}
		line += word + " "
	}
	return b.String() + strings.TrimRight(line, " ") + "\n"
}

func (r *Report) sections() []section {
	p := r.Plan
	m := p.Measured
	first := section{
		heading: fmt.Sprintf("Plan for %s concurrent users (phase %d: %s)", number(p.Load.ConcurrentUsers), p.Phase, p.PhaseName),
		lead:    []string{p.Advice},
	}
	first.after = append(first.after, p.Derived...)
	first.after = append(first.after, fmt.Sprintf("capacities: %s, %d cores, Lyceum %s, %s; %s; measured by %s", m.CPU, m.Cores, m.Version,
		m.At.Format("2 January 2006"), m.Shape, m.Command))
	out := []section{first, r.roleSection(), r.engineSection()}
	if len(p.Notes) > 0 {
		out = append(out, section{heading: "Mind", after: p.Notes})
	}
	return append(out, r.guideSection(), r.stepSection(), r.exampleSection())
}

func (r *Report) roleSection() section {
	p := r.Plan
	t := &table{right: []int{1, 2, 3, 4}}
	t.add("role", "processes", "cores each", "memory each", "busy cores", "why")
	for _, x := range p.Roles {
		if x.Replicas == 0 {
			t.add(x.Role, "-", "-", "-", "-", x.Why)
			continue
		}
		t.add(x.Role, number(float64(x.Replicas)), fmt.Sprintf("%.2f", x.CPU), size(x.Memory), fmt.Sprintf("%.2f", x.Busy), x.Why)
	}
	t.add("or: all", number(float64(p.Whole.Replicas)), fmt.Sprintf("%.2f", p.Whole.CPU), size(p.Whole.Memory),
		fmt.Sprintf("%.2f", p.Whole.Busy), p.Whole.Why)
	return section{
		heading: "Processes", table: t,
		lead: []string{fmt.Sprintf("Cores are what to request: the busy cores at %.0f %% use (the guide's target is 60 to 70 %%). "+
			"A process may use %s cores.", 100*Target, number(p.Load.Cores))},
		after: []string{fmt.Sprintf("as advised (%s): %s, %s cores requested, %s of memory",
			map[string]string{"one": "one process", "whole": "every process with every role", "split": "each role its own processes"}[p.Shape],
			count(p.Processes, "process", "processes"), number(math.Round(p.CPU*10)/10), size(p.Memory))},
	}
}

func (r *Report) engineSection() section {
	p := r.Plan
	t := &table{}
	t.add("engine", "needs", "why")
	t.add("PostgreSQL", fmt.Sprintf("%s cores, %s; shared_buffers %s, max_connections %d, database.connections %d",
		number(p.Database.CPU), size(p.Database.Memory), size(p.Database.SharedBuffers), p.Database.MaxConnections, p.Database.Connections),
		p.Database.Why)
	t.add("", "grows by "+size(p.Database.GrowthPerMonth)+" a month", fmt.Sprintf("messages and what comes with them; "+
		"the busiest minutes carry %s times the mean", number(p.Load.Habits.PeakFactor)))
	t.add("Redis", fmt.Sprintf("%s cores, %s", number(p.Redis.CPU), size(p.Redis.Memory)), p.Redis.Why)
	t.add("blob store", fmt.Sprintf("grows by %s a month, %s requests/s", size(p.Blob.GrowthPerMonth), number(p.Blob.Requests)), p.Blob.Why)
	t.add("network", fmt.Sprintf("%s Mbit/s in, %s Mbit/s out", number(p.Network.In/1e6), number(p.Network.Out/1e6)),
		"between clients and routers, before compression")
	return section{heading: "Engines, storage, network", table: t}
}

func (r *Report) guideSection() section {
	t := &table{right: []int{3, 4}}
	t.add("guide", "worker", "formula", "formula gives", "example says", "Lyceum", "remark")
	for _, g := range r.Guide {
		ours := "-"
		for _, w := range guideWorkers {
			if w.name == g.Worker && w.role != "" && g.Guide == synapse {
				ours = r.ours(w.role)
			}
		}
		if g.Guide == mmr {
			ours = r.ours("media")
		}
		t.add(shortGuide(g.Guide), g.Worker, g.Formula, value(g), dash(g.Example), ours, remark(g))
	}
	return section{
		heading: "Beside it: what the guides say for this load", table: t,
		lead: []string{"A Synapse worker uses at most one core; a Lyceum process uses all it is given. " +
			"Where a guide has an example for just this load, both its figures stand here."},
	}
}

func (r *Report) ours(role string) string {
	for _, x := range r.Plan.Roles {
		if x.Role == role {
			return fmt.Sprintf("%d × %.2f cores", x.Replicas, x.CPU)
		}
	}
	return "-"
}

func (r *Report) stepSection() section {
	t := &table{}
	t.add("")
	rows := [][]string{{"messages/s"}, {"simplest shape"}, {"processes"}, {"cores requested"}, {"memory"}}
	for i, s := range r.Steps {
		t.right = append(t.right, i+1)
		t.rows[0] = append(t.rows[0], number(s.Load.ConcurrentUsers)+" users")
		for k, cell := range []string{
			number(s.Load.MessagesPerSecond), s.Shape, number(float64(s.Processes)), number(math.Round(s.CPU*10) / 10),
			size(s.Memory),
		} {
			rows[k] = append(rows[k], cell)
		}
	}
	t.rows = append(t.rows, rows...)
	for i, x := range r.Plan.Roles {
		row := []string{x.Role}
		for _, s := range r.Steps {
			cell := "-"
			if y := s.Roles[i]; y.Replicas > 0 {
				cell = fmt.Sprintf("%d × %.2f", y.Replicas, y.CPU)
			}
			row = append(row, cell)
		}
		t.add(row...)
	}
	for _, e := range []struct {
		name string
		cell func(*Plan) string
	}{
		{"PostgreSQL", func(s *Plan) string { return number(s.Database.CPU) + " cores" }},
		{"max_connections", func(s *Plan) string { return number(float64(s.Database.MaxConnections)) }},
		{"database a month", func(s *Plan) string { return size(s.Database.GrowthPerMonth) }},
		{"Redis memory", func(s *Plan) string { return size(s.Redis.Memory) }},
		{"files a month", func(s *Plan) string { return size(s.Blob.GrowthPerMonth) }},
	} {
		row := []string{e.name}
		for _, s := range r.Steps {
			row = append(row, e.cell(s))
		}
		t.add(row...)
	}
	return section{
		heading: "The same community at other sizes", table: t,
		lead: []string{"By role: processes × cores of each, if each role has processes of its own. " +
			"\"one\" is a single process; \"whole\" are a few processes that each have every role; the totals are of that shape."},
	}
}

func (r *Report) exampleSection() section {
	t := &table{right: []int{4, 5}}
	t.add("guide", "worker", "at", "formula", "formula gives", "example says", "remark")
	n := 0
	for _, g := range r.Examples {
		if g.Contradicts {
			n++
		}
		t.add(shortGuide(g.Guide), g.Worker, g.At, g.Formula, value(g), dash(g.Example), remark(g))
	}
	return section{heading: fmt.Sprintf("Every example of the guides: %d of %d contradict their formula", n, len(r.Examples)), table: t}
}

func shortGuide(name string) string { name, _, _ = strings.Cut(name, " "); return name }

func value(g GuideRow) string {
	s := number(g.Value)
	if g.High > g.Value {
		s += "-" + number(g.High)
	}
	if g.Unit == "cores" || g.Unit == "GB of memory" {
		s += " " + strings.TrimSuffix(g.Unit, " of memory")
	}
	return s
}

func dash(s string) string {
	if s == "" {
		return "-"
	}
	return s
}

func remark(g GuideRow) string {
	switch {
	case g.Contradicts && g.Note != "":
		return "contradicts: " + g.Note
	case g.Contradicts:
		return "contradicts"
	}
	return g.Note
}
