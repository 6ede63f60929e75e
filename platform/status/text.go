package status

import (
	"cmp"
	"fmt"
	"io"
	"maps"
	"slices"
	"strconv"
	"strings"
	"text/tabwriter"
	"time"
)

// Text prints the fleet for people. Rates are those since before, which may be nil: then they are left out.
func (f *Fleet) Text(w io.Writer, before *Fleet) error {
	out := &strings.Builder{}
	fmt.Fprintf(out, "%s, version %s, %d processes, %s\n", f.Server, f.Version, len(f.Processes), f.At.UTC().Format(time.DateTime+" UTC"))
	if f.Stopped {
		fmt.Fprintln(out, "no process of this server runs: this is what its database says")
	}
	if f.Rollout != nil {
		fmt.Fprintf(out, "rollout %s to %s: %s, %d of %d processes %s\n", f.Rollout.From, f.Rollout.To, f.Rollout.State, f.Rollout.Done,
			f.Rollout.Of, f.Rollout.Reason)
	}
	var commit, delivery Histogram
	for _, p := range f.Processes {
		commit, delivery = commit.Plus(p.Commit), delivery.Plus(p.Delivery)
	}
	var since []string
	for what, h := range map[string]Histogram{"commit p95 ": commit, "delivery to readers p95 ": delivery} {
		if h.Count > 0 {
			since = append(since, what+milliseconds(h.Quantile(.95)))
		}
	}
	if len(since) > 0 {
		slices.Sort(since)
		fmt.Fprintf(out, "since the start: %s\n", strings.Join(since, ", "))
	}
	t := tabwriter.NewWriter(out, 0, 0, 2, ' ', 0)
	fmt.Fprint(t, "\nMACHINE\tVERSION\tROLES\tUP\tCPU\tMEMORY\tDATABASE\tREQUESTS\tSTATE\tHOST\n")
	for i := range f.Processes {
		p := &f.Processes[i]
		old := before.process(p)
		fmt.Fprintf(t, "%d\t%s\t%s\t%s\t%s\t%s\t%d/%d\t%s\t%s\t%s\n", p.Machine, p.Version, strings.Join(p.Roles, ","), age(f.At.Sub(p.Started)),
			p.cpu(old), bytesText(p.Resident), p.Pool.InUse, p.Pool.Max, p.rate(old), p.state(), p.Host)
	}
	fmt.Fprint(t, "\nSTREAM\tROWS\tSHARDS BY MACHINE\tBEHIND\tDELIVERY P95\n")
	for _, st := range f.Streams {
		rows := int64(0)
		for _, sh := range st.Shards {
			rows += sh.Position
		}
		fmt.Fprintf(t, "%s\t%d\t%s\t%d\t%s\n", st.Name, rows, owners(st), f.behind(st.Name), f.delivery(st.Name, before))
	}
	fmt.Fprint(t, "\nENGINE\tADDRESS\tROUND TRIP\tCONNECTIONS\tSIZE\t\n")
	for _, e := range []Engine{f.Database, f.Redis, f.Blob} {
		fmt.Fprintf(t, "%s %s\t%s\t%s\t%s\t%s\t%s\n", e.Kind, e.Version, e.Address, milliseconds(e.RoundTrip), connections(e),
			bytesText(max(e.Size, e.Memory)), e.Error)
	}
	fmt.Fprint(t, "\nROUTE\tPER SECOND\tP50\tP95\tERRORS\n")
	for _, r := range f.busiest(before) {
		fmt.Fprintln(t, r)
	}
	if len(f.Consumers) > 0 {
		fmt.Fprint(t, "\nCONSUMER\tROLE\tSHARDS BY MACHINE\n")
		for _, c := range f.Consumers {
			fmt.Fprintf(t, "%s\t%s\t%s\n", c.Name, c.Role, owners(c))
		}
	}
	if len(f.Jobs) > 0 {
		fmt.Fprint(t, "\nJOB\tMACHINE\n")
		for _, j := range f.Jobs {
			machine := strconv.Itoa(j.Machine)
			if j.Machine < 0 {
				machine = "nobody"
			}
			fmt.Fprintf(t, "%s\t%s\n", j.Name, machine)
		}
	}
	if err := t.Flush(); err != nil {
		return err
	}
	_, err := io.WriteString(w, out.String())
	return err
}

// process returns the sample of the same run of a process, nil when there is none.
func (f *Fleet) process(p *Sample) *Sample {
	if f == nil {
		return nil
	}
	i := slices.IndexFunc(f.Processes, func(o Sample) bool { return o.Machine == p.Machine && o.Incarnation == p.Incarnation })
	if i < 0 {
		return nil
	}
	return &f.Processes[i]
}

func (p *Sample) cpu(old *Sample) string {
	if old == nil || p.Error != "" || !p.At.After(old.At) {
		return ""
	}
	return fmt.Sprintf("%.1f %%", 100*(p.CPU-old.CPU)/p.At.Sub(old.At).Seconds())
}

func (p *Sample) requests() (n float64) {
	for _, r := range p.Routes {
		n += float64(r.Latency.Count)
	}
	return n
}

func (p *Sample) rate(old *Sample) string {
	if old == nil || !p.At.After(old.At) {
		return ""
	}
	return fmt.Sprintf("%.1f/s", (p.requests()-old.requests())/p.At.Sub(old.At).Seconds())
}

func (p *Sample) state() string {
	switch {
	case p.Error != "":
		return "silent"
	case p.Draining:
		return "stopping"
	case !p.Ready:
		return "starting"
	case p.Degraded:
		return "no Redis"
	}
	return "ready"
}

// delivery is the time from the writing of a row to its arrival at the others: since before, or since the start.
func (f *Fleet) delivery(stream string, before *Fleet) string {
	var all Histogram
	for i := range f.Processes {
		p := &f.Processes[i]
		now := p.delivery(stream)
		if old := before.process(p); old != nil {
			now = now.Minus(old.delivery(stream))
		}
		all = all.Plus(now)
	}
	if all.Count == 0 {
		return ""
	}
	return milliseconds(all.Quantile(.95))
}

func (p *Sample) delivery(stream string) (h Histogram) {
	for _, st := range p.Streams {
		if st.Name == stream {
			h = st.Delivery
		}
	}
	return h
}

// behind is the largest number of rows of a stream that a process has not seen.
func (f *Fleet) behind(stream string) (rows int64) {
	for _, p := range f.Processes {
		for _, st := range p.Streams {
			if st.Name != stream {
				continue
			}
			for _, sh := range st.Shards {
				rows = max(rows, sh.Behind)
			}
		}
	}
	return rows
}

func owners(st Stream) string {
	count := map[int]int{}
	for _, sh := range st.Shards {
		count[sh.Machine]++
	}
	var out []string
	for _, m := range slices.Sorted(maps.Keys(count)) {
		name := fmt.Sprint(m)
		if m < 0 {
			name = "nobody"
		}
		out = append(out, fmt.Sprintf("%s:%d", name, count[m]))
	}
	return strings.Join(out, " ")
}

// busiest prints the ten routes with the most requests since before, over all processes.
func (f *Fleet) busiest(before *Fleet) []string {
	type line struct {
		pattern string
		latency Histogram
		errors  float64
	}
	all := map[string]*line{}
	span := 0.0
	for i := range f.Processes {
		p := &f.Processes[i]
		old := before.process(p)
		if old != nil {
			span = max(span, p.At.Sub(old.At).Seconds())
		}
		for _, r := range p.Routes {
			if r.Hop {
				continue
			}
			l := all[r.Pattern]
			if l == nil {
				l = &line{pattern: r.Pattern}
				all[r.Pattern] = l
			}
			h, failed := r.Latency, r.ByCode["5xx"]
			if old != nil {
				if o := slices.IndexFunc(old.Routes, func(x Route) bool { return x.Like(&r) }); o >= 0 {
					h, failed = h.Minus(old.Routes[o].Latency), failed-old.Routes[o].ByCode["5xx"]
				}
			}
			l.latency, l.errors = l.latency.Plus(h), l.errors+failed
		}
	}
	lines := make([]*line, 0, len(all))
	for _, l := range all {
		if l.latency.Count > 0 {
			lines = append(lines, l)
		}
	}
	slices.SortFunc(lines, func(a, b *line) int {
		return cmp.Or(cmp.Compare(b.latency.Count, a.latency.Count), strings.Compare(a.pattern, b.pattern))
	})
	var out []string
	for _, l := range lines[:min(10, len(lines))] {
		rate := fmt.Sprintf("%d in all", l.latency.Count)
		if span > 0 {
			rate = fmt.Sprintf("%.1f", float64(l.latency.Count)/span)
		}
		out = append(out, fmt.Sprintf("%s\t%s\t%s\t%s\t%.0f", l.pattern, rate, milliseconds(l.latency.Quantile(.5)),
			milliseconds(l.latency.Quantile(.95)), l.errors))
	}
	return out
}

func connections(e Engine) string {
	if e.MaxConn == 0 {
		return ""
	}
	return fmt.Sprintf("%d/%d", e.Connections, e.MaxConn)
}

func milliseconds(s float64) string {
	switch {
	case s == 0:
		return ""
	case s < .01:
		return fmt.Sprintf("%.1f ms", s*1e3)
	case s < 1:
		return fmt.Sprintf("%.0f ms", s*1e3)
	}
	return fmt.Sprintf("%.1f s", s)
}

func bytesText(n int64) string {
	switch {
	case n == 0:
		return ""
	case n < 10<<20:
		return fmt.Sprintf("%.1f MiB", float64(n)/(1<<20))
	case n < 10<<30:
		return fmt.Sprintf("%d MiB", n>>20)
	}
	return fmt.Sprintf("%.1f GiB", float64(n)/(1<<30))
}

func age(d time.Duration) string {
	switch {
	case d < time.Minute:
		return fmt.Sprintf("%ds", int(d.Seconds()))
	case d < time.Hour:
		return fmt.Sprintf("%dm", int(d.Minutes()))
	case d < 48*time.Hour:
		return fmt.Sprintf("%dh", int(d.Hours()))
	}
	return fmt.Sprintf("%dd", int(d.Hours()/24))
}
