package deploy

import (
	"encoding/json"
	"strings"
)

// The parts of a Grafana dashboard (JSON model, schema version 39) that are used.
type dashboard struct {
	UID           string     `json:"uid"`
	Title         string     `json:"title"`
	Tags          []string   `json:"tags"`
	Timezone      string     `json:"timezone"`
	SchemaVersion int        `json:"schemaVersion"`
	Editable      bool       `json:"editable"`
	Refresh       string     `json:"refresh"`
	GraphTooltip  int        `json:"graphTooltip"`
	Time          timeRange  `json:"time"`
	Templating    templating `json:"templating"`
	Panels        []panel    `json:"panels"`
}

type timeRange struct {
	From string `json:"from"`
	To   string `json:"to"`
}

type templating struct {
	List []variable `json:"list"`
}

type variable struct {
	Name       string  `json:"name"`
	Label      string  `json:"label"`
	Type       string  `json:"type"`
	Query      string  `json:"query"`
	Datasource *source `json:"datasource,omitempty"`
	Refresh    int     `json:"refresh,omitempty"`
	IncludeAll bool    `json:"includeAll"`
	Multi      bool    `json:"multi"`
	AllValue   string  `json:"allValue,omitempty"`
	Current    any     `json:"current,omitempty"`
}

type source struct {
	Type string `json:"type"`
	UID  string `json:"uid"`
}

type panel struct {
	ID          int            `json:"id"`
	Type        string         `json:"type"`
	Title       string         `json:"title"`
	Description string         `json:"description,omitempty"`
	GridPos     gridPos        `json:"gridPos"`
	Datasource  *source        `json:"datasource,omitempty"`
	Targets     []target       `json:"targets,omitempty"`
	FieldConfig *fieldConfig   `json:"fieldConfig,omitempty"`
	Options     map[string]any `json:"options,omitempty"`
	Collapsed   *bool          `json:"collapsed,omitempty"`
	Panels      []panel        `json:"panels,omitempty"`
}

type gridPos struct {
	H int `json:"h"`
	W int `json:"w"`
	X int `json:"x"`
	Y int `json:"y"`
}

type target struct {
	RefID   string `json:"refId"`
	Expr    string `json:"expr"`
	Legend  string `json:"legendFormat,omitempty"`
	Instant bool   `json:"instant,omitempty"`
	Format  string `json:"format,omitempty"`
}

type fieldConfig struct {
	Defaults  fieldDefaults `json:"defaults"`
	Overrides []any         `json:"overrides"`
}

type fieldDefaults struct {
	Unit       string         `json:"unit"`
	Min        *float64       `json:"min,omitempty"`
	Custom     map[string]any `json:"custom,omitempty"`
	Thresholds thresholds     `json:"thresholds"`
}

type thresholds struct {
	Mode  string `json:"mode"`
	Steps []step `json:"steps"`
}

type step struct {
	Color string   `json:"color"`
	Value *float64 `json:"value"`
}

// plot is a panel as it is written down below: what, in which unit, and from where on it is bad.
type plot struct {
	title, unit string
	bad         float64     // 0: no threshold
	queries     [][2]string // expression and legend; "$ROUTE" and the like are Grafana's
	kind        string      // "" is a graph over time
	help        string
}

type row struct {
	title string
	plots []plot
}

const (
	rate = "[$__rate_interval]"
)

// of puts the selected instances into a metric's selector.
func of(name, more string) string {
	if more != "" {
		more = "," + more
	}
	return name + `{job="lyceum",instance=~"$instance"` + more + `}`
}

// p is a quantile of a histogram by labels.
func p(q, name, more, by string) string {
	labels := "le"
	if by != "" {
		labels += ", " + by
	}
	return "histogram_quantile(" + q + ", sum by (" + labels + ") (rate(" + of(name+"_bucket", more) + rate + ")))"
}

func sumRate(name, more, by string) string {
	return "sum by (" + by + ") (rate(" + of(name, more) + rate + "))"
}

func quantiles(name, more string) [][2]string {
	return [][2]string{{p("0.5", name, more, ""), "p50"}, {p("0.95", name, more, ""), "p95"}, {p("0.99", name, more, ""), "p99"}}
}

const requests = "lyceum_http_request_duration_seconds"

// rows are the dashboard.
var rows = []row{
	{"Overview", []plot{
		{title: "Processes", unit: "none", kind: "stat", queries: [][2]string{{"sum(" + of("up", "") + ")", "up"}}},
		{
			title: "Not ready", unit: "none", bad: 1, kind: "stat",
			queries: [][2]string{{"count(" + of("lyceum_ready", "") + " == 0) or vector(0)", ""}},
		},
		{
			title: "Shards without owner", unit: "none", bad: 1, kind: "stat",
			queries: [][2]string{{`count(sum by (stream, shard) (lyceum_stream_owned{job="lyceum"}) == 0) or vector(0)`, ""}},
		},
		{
			title: "Requests failing", unit: "percentunit", bad: 0.01, kind: "stat",
			queries: [][2]string{{"sum(rate(" + of(requests+"_count", `code="5xx"`) + rate + ")) / sum(rate(" + of(requests+"_count", "") +
				rate + "))", ""}},
		},
		{
			title: "Versions", unit: "none", kind: "table",
			queries: [][2]string{{"count by (version) (" + of("lyceum_build_info", "") + ")", "{{version}}"}},
		},
		{title: "Requests by role", unit: "reqps", queries: [][2]string{{
			sumRate(requests+"_count", `role=~"$role",from="client"`, "role"),
			"{{role}}",
		}}},
		{
			title: "Latency by role, p95", unit: "s", bad: 1, help: "Without /sync, which waits for news. The aim is below 1 s.",
			queries: [][2]string{{p("0.95", requests, `role=~"$role",role!="sync"`, "role"), "{{role}}"}},
		},
		{title: "Answers by status", unit: "reqps", queries: [][2]string{{sumRate(requests+"_count", `from="client"`, "code"), "{{code}}"}}},
		{
			title: "Slowest routes, p95", unit: "s", bad: 1,
			queries: [][2]string{{"topk(10, " + p("0.95", requests, `role!="sync"`, "route") + ")", "{{route}}"}},
		},
	}},
	{"Sync", []plot{
		{
			title: "/sync without waiting", unit: "s", bad: 0.5, help: "The aim is p95 below 500 ms.",
			queries: quantiles("lyceum_sync_work_seconds", ""),
		},
		{title: "Clients that wait", unit: "none", queries: [][2]string{{"sum by (instance) (" +
			of("lyceum_http_requests_in_flight", `role="sync",from="client"`) + ")", "{{instance}}"}}},
		{title: "Answers", unit: "reqps", queries: [][2]string{{sumRate(requests+"_count", `role="sync"`, "instance"), "{{instance}}"}}},
	}},
	{"Events", []plot{
		{title: "Rows written by stream", unit: "wps", queries: [][2]string{{sumRate("lyceum_stream_rows_total", "", "stream"), "{{stream}}"}}},
		{
			title: "Sending events, p95", unit: "s", bad: 1,
			queries: [][2]string{{p("0.95", requests, `role="events"`, "instance"), "{{instance}}"}},
		},
		{title: "Commit", unit: "s", bad: 0.05, help: "The aim is p95 below 50 ms.", queries: quantiles("lyceum_stream_commit_seconds", "")},
		{title: "Rows of a commit", unit: "none", queries: [][2]string{
			{p("0.5", "lyceum_stream_commit_rows", "", ""), "p50"},
			{p("0.95", "lyceum_stream_commit_rows", "", ""), "p95"},
		}},
		{
			title: "Writes that wait", unit: "none", bad: 500, help: "The aim is below 500.",
			queries: [][2]string{{of("lyceum_stream_queued", ""), "{{instance}}"}},
		},
		{
			title: "Delivery to readers", unit: "s", bad: 0.1, help: "The aim is p95 below 100 ms.",
			queries: quantiles("lyceum_stream_delivery_seconds", ""),
		},
	}},
	{"Streams by shard", []plot{
		{
			title: "Rows by shard of $stream", unit: "wps",
			queries: [][2]string{{sumRate("lyceum_stream_rows_total", `stream=~"$stream"`, "stream, shard"), "{{stream}} {{shard}}"}},
		},
		{
			title: "Rows behind, by process", unit: "none", bad: 1000,
			queries: [][2]string{{
				"sum by (instance, stream) (" + of("lyceum_stream_behind_rows", `stream=~"$stream"`) + ")",
				"{{instance}} {{stream}}",
			}},
		},
		{
			title: "Shards owned, by process", unit: "none",
			queries: [][2]string{{"sum by (instance, stream) (" + of("lyceum_stream_owned", `stream=~"$stream"`) + ")", "{{instance}} {{stream}}"}},
		},
		{title: "Owners", unit: "none", kind: "table", queries: [][2]string{{of("lyceum_stream_owned", `stream=~"$stream"`) + " == 1", ""}}},
		{
			title: "Gaps read from the database", unit: "ops",
			queries: [][2]string{{sumRate("lyceum_stream_gaps_total", "", "stream"), "{{stream}}"}},
		},
		{title: "Positions", unit: "none", queries: [][2]string{{"max by (stream, shard) (" + of("lyceum_stream_position", `stream=~"$stream"`) +
			")", "{{stream}} {{shard}}"}}},
	}},
	{"Database", []plot{
		{title: "Connections", unit: "none", queries: [][2]string{{
			"sum by (state) (" + of("lyceum_database_connections", "") + ")",
			"{{state}}",
		}}},
		{title: "Pool in use", unit: "percentunit", bad: 0.8, queries: [][2]string{{
			"sum by (instance) (" + of("lyceum_database_connections", `state="in_use"`) + ") / sum by (instance) (" +
				of("lyceum_database_connections", `state="max"`) + ")", "{{instance}}",
		}}},
		{
			title: "Commit by process, p95", unit: "s", bad: 0.05,
			queries: [][2]string{{p("0.95", "lyceum_stream_commit_seconds", "", "instance"), "{{instance}}"}},
		},
	}},
	{"Redis", []plot{
		{title: "Round trip", unit: "s", bad: 0.05, queries: quantiles("lyceum_bus_roundtrip_seconds", "")},
		{
			title: "Commits that were not published", unit: "ops",
			queries: [][2]string{{sumRate("lyceum_stream_unpublished_total", "", "instance"), "{{instance}}"}},
		},
	}},
	{"Blob store", []plot{
		{
			title: "Time to the store's answer", unit: "s", bad: 0.5, help: "The aim is below 500 ms.",
			queries: quantiles("lyceum_blob_seconds", ""),
		},
		{title: "Bytes", unit: "Bps", queries: [][2]string{{sumRate("lyceum_media_bytes_total", "", "done"), "{{done}}"}}},
	}},
	{"Media", []plot{
		{title: "Files", unit: "ops", queries: [][2]string{{sumRate("lyceum_media_files_total", "", "done"), "{{done}}"}}},
		{
			title: "Media requests, p95", unit: "s", bad: 2, help: "The aim is 2 s for 1 MB.",
			queries: [][2]string{{p("0.95", requests, `role=~"media|uploads|downloads|thumbnails"`, "role"), "{{role}}"}},
		},
		{title: "Thumbnails", unit: "ops", queries: [][2]string{{sumRate("lyceum_media_thumbnails_total", "", "result"), "{{result}}"}}},
		{title: "Decoding a picture", unit: "s", bad: 10, queries: quantiles("lyceum_media_decoding_seconds", "")},
	}},
	{"Processes", []plot{
		{
			title: "CPU, of what each may use", unit: "percentunit", bad: 0.7,
			queries: [][2]string{{
				"rate(" + of("process_cpu_seconds_total", "") + rate + ") / " + of("go_sched_gomaxprocs_threads", ""),
				"{{instance}}",
			}},
		},
		{title: "Memory", unit: "bytes", queries: [][2]string{{of("process_resident_memory_bytes", ""), "{{instance}}"}}},
		{title: "Goroutines", unit: "none", queries: [][2]string{{of("go_goroutines", ""), "{{instance}}"}}},
		{
			title: "Open files", unit: "percentunit", bad: 0.8,
			queries: [][2]string{{of("process_open_fds", "") + " / " + of("process_max_fds", ""), "{{instance}}"}},
		},
		{
			title: "Requests passed on", unit: "reqps",
			queries: [][2]string{{sumRate("lyceum_router_hops_total", "", "role, result"), "{{role}} {{result}}"}},
		},
		{
			title: "Calls between processes, p95", unit: "s", bad: 0.1,
			queries: [][2]string{{p("0.95", "lyceum_rpc_seconds", "", "method"), "{{method}}"}},
		},
		{title: "Clock ahead of the database", unit: "s", bad: 1, queries: [][2]string{{of("lyceum_clock_ahead_seconds", ""), "{{instance}}"}}},
		{title: "Scratch left", unit: "bytes", queries: [][2]string{{of("lyceum_scratch_free_bytes", ""), "{{instance}}"}}},
	}},
}

// Grafana renders the dashboard lyceum.json for import or provisioning. The data source is chosen in it.
func Grafana(in Input) ([]File, error) {
	in, err := in.complete()
	if err != nil {
		return nil, err
	}
	prometheus := &source{"prometheus", "${datasource}"}
	query := func(name, label, text string) variable {
		return variable{
			Name: name, Label: label, Type: "query", Query: text, Datasource: prometheus, Refresh: 2, IncludeAll: true, Multi: true, AllValue: ".*",
			Current: map[string]any{"text": "All", "value": "$__all"},
		}
	}
	d := dashboard{
		UID: "lyceum", Title: "Lyceum: " + in.ServerName, Tags: []string{"lyceum", "matrix"}, Timezone: "browser", SchemaVersion: 39,
		Refresh: "30s", GraphTooltip: 1, Time: timeRange{"now-3h", "now"},
		Templating: templating{[]variable{
			{Name: "datasource", Label: "Data source", Type: "datasource", Query: "prometheus"},
			query("instance", "Process", `label_values(lyceum_build_info{job="lyceum"}, instance)`),
			query("role", "Role", `label_values(lyceum_http_request_duration_seconds_count{job="lyceum"}, role)`),
			query("stream", "Stream", `label_values(lyceum_stream_owned{job="lyceum"}, stream)`),
		}},
	}
	id, y := 0, 0
	for i, r := range rows {
		id++
		collapsed := i > 2
		head := panel{ID: id, Type: "row", Title: r.title, GridPos: gridPos{1, 24, 0, y}, Collapsed: &collapsed}
		y++
		x, height := 0, 0
		var inside []panel
		for _, pl := range r.plots {
			id++
			made := pl.panel(id, prometheus)
			if x+made.GridPos.W > 24 {
				x, y, height = 0, y+height, 0
			}
			made.GridPos.X, made.GridPos.Y = x, y
			x, height = x+made.GridPos.W, max(height, made.GridPos.H)
			inside = append(inside, made)
		}
		y += height
		if collapsed { // a closed row holds its panels
			head.Panels = inside
			d.Panels = append(d.Panels, head)
		} else {
			d.Panels = append(append(d.Panels, head), inside...)
		}
	}
	body, err := json.MarshalIndent(d, "", "  ")
	return []File{{Name: "lyceum.json", Mode: 0o644, Body: append(body, '\n')}}, err
}

func (pl plot) panel(id int, from *source) panel {
	zero := 0.0
	steps := []step{{Color: "green"}}
	if pl.bad > 0 {
		steps = append(steps, step{"red", &pl.bad})
	}
	out := panel{
		ID: id, Type: pl.kind, Title: pl.title, Description: pl.help, Datasource: from, GridPos: gridPos{H: 8, W: 8},
		FieldConfig: &fieldConfig{Defaults: fieldDefaults{Unit: pl.unit, Thresholds: thresholds{"absolute", steps}}, Overrides: []any{}},
	}
	switch pl.kind {
	case "stat":
		out.GridPos = gridPos{H: 4, W: 4}
		out.Options = map[string]any{"colorMode": "value", "graphMode": "area", "reduceOptions": map[string]any{"calcs": []string{"lastNotNull"}}}
	case "table":
	default:
		out.Type = "timeseries"
		out.FieldConfig.Defaults.Min = &zero
		if strings.Contains(pl.title, "ahead") {
			out.FieldConfig.Defaults.Min = nil // it may be behind, too
		}
		out.FieldConfig.Defaults.Custom = map[string]any{"lineWidth": 1, "fillOpacity": 8, "thresholdsStyle": map[string]any{"mode": "off"}}
		if pl.bad > 0 {
			out.FieldConfig.Defaults.Custom["thresholdsStyle"] = map[string]any{"mode": "dashed"}
		}
		out.Options = map[string]any{
			"legend":  map[string]any{"displayMode": "list", "placement": "bottom"},
			"tooltip": map[string]any{"mode": "multi", "sort": "desc"},
		}
	}
	for i, q := range pl.queries {
		t := target{RefID: string(rune('A' + i)), Expr: q[0], Legend: q[1]}
		if pl.kind == "table" {
			t.Instant, t.Format = true, "table"
		}
		out.Targets = append(out.Targets, t)
	}
	return out
}
