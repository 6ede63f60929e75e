package plan

import (
	"fmt"
	"math"
)

// GuideRow is what a guide says for a load, or one of its examples.
type GuideRow struct {
	Guide       string  `json:"guide"`
	Worker      string  `json:"worker"`
	At          string  `json:"at"`      // the load in the guide's words
	Formula     string  `json:"formula"` // as the guide writes it
	Value       float64 `json:"value"`   // of the formula at the load
	High        float64 `json:"value_high,omitempty"`
	Unit        string  `json:"unit"`
	Example     string  `json:"example,omitempty"` // the guide's own figure for the load
	Low         float64 `json:"example_low,omitempty"`
	Most        float64 `json:"example_high,omitempty"`
	Contradicts bool    `json:"contradicts"` // the example is not what the formula gives
	Note        string  `json:"note,omitempty"`
}

const (
	synapse  = "Synapse worker scaling guide"
	mmr      = "matrix-media-repo horizontal scaling"
	overleaf = "Overleaf hardware requirements"
)

// guideWorker is a worker type of the Synapse guide.
type guideWorker struct {
	name    string
	role    string // of Lyceum, that does its work
	formula string
	value   func(l Load) float64
	// examples by concurrent users (federated servers for the federation sender): lowest and highest.
	examples []guideExample
	phases   [4][2]float64 // of phase 1 to 4, at its least and its most users
}

type guideExample struct{ at, low, high float64 }

func perUser(n, least float64) func(Load) float64 {
	return func(l Load) float64 { return math.Max(least, math.Ceil(l.ConcurrentUsers/n)) }
}

func exactly(pairs ...float64) []guideExample {
	var out []guideExample
	for i := 0; i < len(pairs); i += 2 {
		out = append(out, guideExample{pairs[i], pairs[i+1], pairs[i+1]})
	}
	return out
}

var streamPhases = [4][2]float64{{2, 2}, {2, 2}, {2, 3}, {3, 4}}

var guideWorkers = []guideWorker{
	{
		"synchrotron", "sync", "ceil(CCU / 250)", perUser(250, 0), exactly(100, 2, 1000, 4, 5000, 8, 10000, 12, 20000, 16),
		[4][2]float64{{2, 4}, {4, 8}, {8, 12}, {12, 16}},
	},
	{
		"generic worker", "client", "ceil(CCU / 300)", perUser(300, 0), exactly(100, 2, 1000, 4, 5000, 6, 10000, 8, 20000, 10),
		[4][2]float64{{2, 4}, {4, 6}, {6, 8}, {8, 10}},
	},
	{
		"event persister", "events", "max(2, ceil(messages_per_second / 50))",
		func(l Load) float64 { return math.Max(2, math.Ceil(l.MessagesPerSecond/50)) },
		exactly(100, 2, 1000, 2, 5000, 3, 10000, 4, 20000, 4),
		[4][2]float64{{2, 2}, {2, 3}, {3, 4}, {4, 4}},
	},
	{
		"federation sender", "", "max(2, ceil(federated_servers / 50)), 0 without federation", func(l Load) float64 {
			if l.FederatedServers == 0 {
				return 0
			}
			return math.Max(2, math.Ceil(l.FederatedServers/50))
		},
		[]guideExample{{0, 0, 0}, {1, 2, 2}, {50, 2, 2}, {100, 2, 2}, {200, 4, 4}, {500, 6, math.Inf(1)}},
		[4][2]float64{{2, 2}, {2, 4}, {4, 4}, {4, 6}},
	},
	{
		"media repository", "media", "max(2, ceil(CCU / 1000))", perUser(1000, 2),
		[]guideExample{{100, 2, 2}, {1000, 2, 2}, {5000, 2, 3}, {10000, 3, 3}, {20000, 4, 4}},
		[4][2]float64{{2, 2}, {2, 3}, {3, 3}, {3, 4}},
	},
	{"typing writer", "typing", "max(2, ceil(CCU / 5000))", perUser(5000, 2), exactly(20000, 2), streamPhases},
	{"to-device writer", "todevice", "max(2, ceil(CCU / 1000))", perUser(1000, 2), exactly(20000, 4), streamPhases},
	{"receipts writer", "receipts", "max(2, ceil(CCU / 2000))", perUser(2000, 2), exactly(20000, 3), streamPhases},
	{"presence writer", "presence", "max(2, ceil(CCU / 3000))", perUser(3000, 2), exactly(20000, 3), streamPhases},
}

// phaseEnds are the users between which the guide's phases lie.
var phaseEnds = [4][2]float64{{100, 1000}, {1000, 5000}, {5000, 10000}, {10000, 20000}}

func (w guideWorker) subject(l Load) float64 {
	if w.name == "federation sender" {
		return l.FederatedServers
	}
	return l.ConcurrentUsers
}

func (w guideWorker) at(x float64) string {
	switch {
	case w.name == "federation sender" && x == 0:
		return "federation disabled"
	case w.name == "federation sender" && x == 500:
		return "500+ servers"
	case w.name == "federation sender":
		return number(x) + " servers"
	case w.name == "event persister":
		return fmt.Sprintf("%s CCU, %s msg/s", number(x), number(GuideMessages(x)))
	}
	return number(x) + " CCU"
}

func (w guideWorker) row(l Load, example *guideExample) GuideRow {
	r := GuideRow{Guide: synapse, Worker: w.name, At: w.at(w.subject(l)), Formula: w.formula, Value: w.value(l), Unit: "replicas"}
	if example == nil {
		return r
	}
	r.Low, r.Most = example.low, example.high
	r.Example = number(r.Low)
	if math.IsInf(r.Most, 1) {
		r.Most, r.Example = 0, r.Example+"+"
	} else if r.Most != r.Low {
		r.Example += "-" + number(r.Most)
	}
	r.Contradicts = r.Value < r.Low || r.Most > 0 && r.Value > r.Most || r.Most == 0 && r.Low == 0 && r.Value != 0
	switch {
	case !r.Contradicts:
	case r.Value < r.Low:
		r.Note = "the example keeps two for availability; the formula has no such minimum"
	case w.name == "event persister" && l.MessagesPerSecond/r.Most > 100:
		r.Note = fmt.Sprintf("%s events/s a worker in the example, where the guide's own target is under 100", number(l.MessagesPerSecond/r.Most))
	default:
		r.Note = fmt.Sprintf("the example is %.0f %% of the formula", 100*cmp0(r.Most, r.Low)/r.Value)
	}
	return r
}

func cmp0(a, b float64) float64 {
	if a != 0 {
		return a
	}
	return b
}

// Guide is what the guides say for a load: one row for each kind of worker, with the formula's value and, where
// the guide has an example for just this load, the example.
func Guide(l Load) []GuideRow {
	l, _ = l.complete()
	var out []GuideRow
	for _, w := range guideWorkers {
		var found *guideExample
		for i, e := range w.examples {
			standard := w.name != "event persister" || l.MessagesPerSecond == GuideMessages(l.ConcurrentUsers)
			if e.at == w.subject(l) && standard || w.name == "federation sender" && e.at == 500 && l.FederatedServers > 500 {
				found = &w.examples[i]
			}
		}
		out = append(out, w.row(l, found))
	}
	if l.HostedServers > 0 {
		out = append(out, mediaRow(l.HostedServers))
	}
	if l.Editors > 0 || l.Compiles > 0 {
		out = append(out, overleafRows(math.Max(l.Editors, l.Compiles))...)
	}
	return out
}

// mediaRow is matrix-media-repo's rule of thumb.
func mediaRow(servers float64) GuideRow {
	r := GuideRow{
		Guide: mmr, Worker: "media process", At: number(servers) + " hosted servers", Formula: "ceil(servers / 500)",
		Value: math.Ceil(servers / 500), Unit: "processes",
	}
	if servers == 1736 {
		r.Example, r.Low, r.Most = "4", 4, 4
		r.Contradicts = r.Value != 4
	}
	return r
}

// overleafRows are the cores and memory that Overleaf's hardware page asks for: a range, since it adds one of
// each for 5 to 10 concurrent users.
func overleafRows(users float64) []GuideRow {
	var out []GuideRow
	for _, x := range []struct {
		worker, unit, formula string
		base                  float64
	}{
		{"one server", "cores", "2 for 5 users, 1 more for each 5 to 10", 2},
		{"one server", "GB of memory", "3 for 5 users, 1 more for each 5 to 10", 3},
	} {
		more := math.Max(0, users-5)
		r := GuideRow{
			Guide: overleaf, Worker: x.worker, At: number(users) + " concurrent users", Formula: x.formula,
			Value: x.base + math.Ceil(more/10), High: x.base + math.Ceil(more/5), Unit: x.unit,
		}
		out = append(out, r)
	}
	return out
}

// GuideExamples are all examples of the guides, each beside what its formula gives.
func GuideExamples() []GuideRow {
	var out []GuideRow
	for _, w := range guideWorkers {
		for _, e := range w.examples {
			l := Load{ConcurrentUsers: e.at}
			if w.name == "federation sender" {
				l = Load{ConcurrentUsers: 100, FederatedServers: e.at}
			}
			l, _ = l.complete()
			out = append(out, w.row(l, &e))
		}
	}
	for _, w := range guideWorkers {
		for phase, ends := range phaseEnds {
			out = append(out, w.phaseRow(phase, ends))
		}
	}
	out = append(out, mediaRow(1736))
	return append(out, overleafExamples()...)
}

// phaseRow compares a range of replicas in a phase's table with the formula at the phase's ends.
func (w guideWorker) phaseRow(phase int, ends [2]float64) GuideRow {
	low, high := w.phases[phase][0], w.phases[phase][1]
	r := GuideRow{
		Guide: synapse, Worker: w.name, At: fmt.Sprintf("phase %d: %s-%s CCU", phase+1, number(ends[0]), number(ends[1])), Formula: w.formula,
		Unit:    "replicas",
		Example: number(low), Low: low, Most: high,
	}
	if high != low {
		r.Example += "-" + number(high)
	}
	if w.name == "federation sender" {
		r.Note = "the formula counts servers, the phase users: nothing to compare"
		return r
	}
	from, _ := Load{ConcurrentUsers: ends[0]}.complete()
	to, _ := Load{ConcurrentUsers: ends[1]}.complete()
	r.Value, r.High = w.value(from), w.value(to)
	r.Contradicts = r.Value != low || r.High != high
	if r.Contradicts {
		r.Note = "the range is not the formula's at the phase's ends"
	}
	for _, e := range w.examples {
		if e.at == ends[0] && low != e.low || e.at == ends[1] && high != e.high {
			r.Note = fmt.Sprintf("the guide's own example at %s says %s", w.at(e.at), number(e.high))
			r.Contradicts = true
		}
	}
	return r
}

// overleafExamples are the sizes that Overleaf's pages name.
func overleafExamples() []GuideRow {
	var out []GuideRow
	add := func(users float64, at string, cores, memory float64, note string) {
		for i, r := range overleafRows(users) {
			r.At = at
			r.Low = []float64{cores, memory}[i]
			r.Most = r.Low
			r.Example = number(r.Low)
			r.Contradicts = r.Low < r.Value || r.Low > r.High
			r.Note = note
			out = append(out, r)
		}
	}
	add(5, "about 5 concurrent users", 2, 3, "")
	add(300, "300 users", 7, 8, "taken as 300 concurrent users")
	add(30, "300 users, 30 of whom compile", 7, 8, "taken as 30 concurrent users")
	add(60, "300 users, 60 of whom compile", 7, 8, "taken as 60 concurrent users")
	add(1000, "1,000 users in all", 8, 32, "taken as 1,000 concurrent users; the page says total users, on one server")
	return out
}
