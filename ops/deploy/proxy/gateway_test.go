package proxy

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"regexp"
	"slices"
	"strings"
	"testing"

	"github.com/goccy/go-yaml"
)

// httpRoute is as much of a HTTPRoute as is rendered, by the names of gateway.networking.k8s.io/v1.
type httpRoute struct {
	APIVersion string `yaml:"apiVersion"`
	Kind       string
	Metadata   struct {
		Name, Namespace string
		Labels          map[string]string
	}
	Spec struct {
		ParentRefs []struct{ Name string } `yaml:"parentRefs"`
		Hostnames  []string
		Rules      []struct {
			Matches []struct {
				Path   struct{ Type, Value string }
				Method string
			}
			BackendRefs []struct {
				Name string
				Port int
			} `yaml:"backendRefs"`
			Timeouts struct{ Request string }
		}
	}
}

func TestGateway(t *testing.T) {
	routes := table(t)
	for name, b := range shapes() {
		t.Run(name, func(t *testing.T) {
			in := Input{
				Command: "lyceum render gateway", Roles: tableRoles, Routes: routes, Backends: b, ServerName: "chat.example.org",
				Namespace: "chat",
			}
			text, err := Gateway(in)
			if err != nil {
				t.Fatal(err)
			}
			decoder := yaml.NewDecoder(bytes.NewReader(text), yaml.Strict())
			var all []httpRoute
			for {
				var r httpRoute
				err := decoder.Decode(&r)
				if errors.Is(err, io.EOF) {
					break
				}
				if err != nil {
					t.Fatalf("%v\n%s", err, text)
				}
				all = append(all, r)
			}
			for _, r := range all {
				if r.APIVersion != "gateway.networking.k8s.io/v1" || r.Kind != "HTTPRoute" || r.Metadata.Namespace != "chat" ||
					len(r.Spec.ParentRefs) != 1 {
					t.Errorf("%+v", r)
				}
				if len(r.Spec.Rules) == 0 || len(r.Spec.Rules) > 16 {
					t.Errorf("%s has %d rules", r.Metadata.Name, len(r.Spec.Rules))
				}
				for _, rule := range r.Spec.Rules {
					if len(rule.Matches) == 0 || len(rule.Matches) > 8 ||
						!regexp.MustCompile(`^([0-9]{1,5}(h|m|s|ms)){1,4}$`).MatchString(rule.Timeouts.Request) {
						t.Errorf("%s: %+v", r.Metadata.Name, rule)
					}
				}
			}
			checked, err := in.check(false)
			if err != nil {
				t.Fatal(err)
			}
			for i := range routes {
				_, field, err := parse(&routes[i])
				if err != nil {
					t.Fatal(err)
				}
				want := checked.gatewayClass(checked.classify(&routes[i], field), checked.streams(routes[i].Role))
				got, err := choose(all, routes[i].Method(), plainExample(&routes[i], "%21x"))
				if err != nil || got != "lyceum-"+want.backend {
					t.Errorf("%s goes to %s, want %s: %v", routes[i].Pattern, got, want.backend, err)
				}
			}
		})
	}
}

// TestGatewayOfOneProcess: files have no time-out where one Service serves everything, and the Service that is named is sent to.
func TestGatewayOfOneProcess(t *testing.T) {
	text, err := Gateway(Input{
		Roles: tableRoles, Routes: table(t), Backends: map[string]Backend{"all": {Servers: []string{"chat:80"}}},
		File: "gateway/httproutes.yaml",
	})
	if err != nil {
		t.Fatal(err)
	}
	if !strings.Contains(string(text), "        - name: chat\n          port: 80\n") ||
		strings.Contains(string(text), "lyceum-all\n          port") {
		t.Errorf("the Service that was named is not sent to:\n%s", text)
	}
	if !strings.Contains(string(text), "kubectl apply -f gateway/httproutes.yaml") {
		t.Errorf("the head names another file:\n%.300s", text)
	}
	decoder := yaml.NewDecoder(bytes.NewReader(text))
	free := 0
	for {
		var r httpRoute
		if err := decoder.Decode(&r); err != nil {
			break
		}
		for _, rule := range r.Spec.Rules {
			for _, m := range rule.Matches {
				if strings.Contains(m.Path.Value, "/media") && !strings.Contains(m.Path.Value, "config") && rule.Timeouts.Request == "0s" {
					free++
				}
			}
		}
	}
	if free == 0 {
		t.Errorf("downloads have a time-out:\n%s", text)
	}
}

// choose does what the specification says: exact paths first, then the longest prefix. Where expressions stand
// is left to each Gateway, so that no two that match may differ, nor one and a prefix that is not "/".
func choose(all []httpRoute, method, path string) (string, error) {
	var exactly, expressions, prefixes []string
	longest := -1
	for _, r := range all {
		for _, rule := range r.Spec.Rules {
			for _, m := range rule.Matches {
				to := rule.BackendRefs[0].Name
				switch {
				case m.Method != "" && m.Method != method:
				case m.Path.Type == "Exact" && m.Path.Value == path:
					exactly = append(exactly, to)
				case m.Path.Type == "RegularExpression" && compiled("^(?:"+m.Path.Value+")$").MatchString(path):
					expressions = append(expressions, to)
				case m.Path.Type == "PathPrefix" && strings.HasPrefix(path+"/", strings.TrimSuffix(m.Path.Value, "/")+"/"):
					if n := len(m.Path.Value); n > longest {
						longest, prefixes = n, nil
					}
					if len(m.Path.Value) == longest {
						prefixes = append(prefixes, to)
					}
				}
			}
		}
	}
	if len(expressions) > 0 && longest > 1 {
		expressions = append(expressions, prefixes...)
	}
	for _, found := range [][]string{exactly, expressions, prefixes} {
		if slices.Sort(found); len(slices.Compact(found)) > 1 {
			return "", fmt.Errorf("%q match", found)
		}
		if len(found) > 0 {
			return found[0], nil
		}
	}
	return "", errors.New("nothing matches")
}
