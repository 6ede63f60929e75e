package deploy

import (
	"fmt"
	"maps"
	"regexp"
	"slices"
	"strings"
)

// Prometheus renders prometheus.yml, which finds the processes, and lyceum.rules.yml with the alerts.
func Prometheus(in Input) ([]File, error) {
	in, err := in.complete()
	if err != nil {
		return nil, err
	}
	r := renderer{}
	r.add("prometheus.yml", 0o644, "prometheus/prometheus.yml.tmpl", map[string]any{"In": in})
	r.add("lyceum.rules.yml", 0o644, "prometheus/lyceum.rules.yml", nil)
	return r.files, r.err
}

// metricName finds the names of metrics that processes of the fleet show.
var metricName = regexp.MustCompile(`\b(lyceum|process|go)_[a-z0-9_]+\b`)

// Metrics are the names of metrics, without the endings of histograms, that rendered rules, dashboards and
// autoscalers read.
func Metrics(files []File) []string {
	names := map[string]bool{}
	for _, f := range files {
		for _, line := range strings.Split(string(f.Body), "\n") {
			if strings.HasPrefix(strings.TrimSpace(line), "#") {
				continue
			}
			for _, name := range metricName.FindAllString(line, -1) {
				for _, ending := range []string{"_bucket", "_count", "_sum"} {
					name = strings.TrimSuffix(name, ending)
				}
				names[name] = true
			}
		}
	}
	return slices.Sorted(maps.Keys(names))
}

// CheckMetrics names the metrics that files read and no process shows. known are the names of all families of a
// process's registry.
func CheckMetrics(files []File, known []string) error {
	var missing []string
	for _, name := range Metrics(files) {
		if !slices.Contains(known, name) {
			missing = append(missing, name)
		}
	}
	if len(missing) > 0 {
		return fmt.Errorf("metrics: rules or dashboards read %s, which no process shows", strings.Join(missing, ", "))
	}
	return nil
}
