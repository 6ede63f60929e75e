package deploy

import (
	"fmt"
	"os/exec"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/goccy/go-yaml"
)

// composeFile is what of the Compose specification is used.
type composeFile struct {
	Name     string                     `yaml:"name"`
	Process  composeService             `yaml:"x-process"`
	Services map[string]*composeService `yaml:"services"`
	Networks map[string]struct {
		Internal bool `yaml:"internal"`
		IPAM     struct {
			Config []map[string]string `yaml:"config"`
		} `yaml:"ipam"`
	} `yaml:"networks"`
	Volumes map[string]struct{} `yaml:"volumes"`
	Configs map[string]struct {
		File string `yaml:"file"`
	} `yaml:"configs"`
	Secrets map[string]struct {
		File string `yaml:"file"`
	} `yaml:"secrets"`
}

type composeService struct {
	Build           map[string]string `yaml:"build"`
	Image           string            `yaml:"image"`
	Restart         string            `yaml:"restart"`
	Init            bool              `yaml:"init"`
	StopGracePeriod string            `yaml:"stop_grace_period"`
	ReadOnly        bool              `yaml:"read_only"`
	User            string            `yaml:"user"`
	CapDrop         []string          `yaml:"cap_drop"`
	SecurityOpt     []string          `yaml:"security_opt"`
	Entrypoint      []string          `yaml:"entrypoint"`
	Command         []string          `yaml:"command"`
	Environment     map[string]string `yaml:"environment"`
	Networks        []string          `yaml:"networks"`
	Ports           []string          `yaml:"ports"`
	Volumes         []string          `yaml:"volumes"`
	ShmSize         string            `yaml:"shm_size"`
	Secrets         []string          `yaml:"secrets"`
	Configs         []struct {
		Source string `yaml:"source"`
		Target string `yaml:"target"`
	} `yaml:"configs"`
	Healthcheck struct {
		Test          []string `yaml:"test"`
		Interval      string   `yaml:"interval"`
		Timeout       string   `yaml:"timeout"`
		Retries       int      `yaml:"retries"`
		StartPeriod   string   `yaml:"start_period"`
		StartInterval string   `yaml:"start_interval"`
	} `yaml:"healthcheck"`
	Logging struct {
		Driver  string            `yaml:"driver"`
		Options map[string]string `yaml:"options"`
	} `yaml:"logging"`
	Deploy struct {
		Replicas  int `yaml:"replicas"`
		Resources struct {
			Limits struct {
				Memory string `yaml:"memory"`
			} `yaml:"limits"`
		} `yaml:"resources"`
	} `yaml:"deploy"`
	DependsOn map[string]struct {
		Condition string `yaml:"condition"`
	} `yaml:"depends_on"`
}

func TestComposeStartsInOrder(t *testing.T) {
	in := input()
	files, err := Compose(in)
	if err != nil {
		t.Fatal(err)
	}
	var c composeFile
	if err := yaml.UnmarshalWithOptions(find(t, files, "compose.yaml"), &c, yaml.Strict()); err != nil {
		t.Fatal(err)
	}
	engines := []string{"postgres", "redis", "s3"}
	roles, processes := map[string]bool{}, 0
	for name, s := range c.Services {
		if s.Image == "" || s.Restart == "" || len(s.Healthcheck.Test) < 2 || s.Logging.Driver == "" {
			t.Errorf("%s has no image, no restart, no health check or no limit of its log: %+v", name, s)
		}
		for _, secret := range s.Secrets {
			if c.Secrets[secret].File != "./secrets/"+secret {
				t.Errorf("%s: secret %s is nowhere", name, secret)
			}
			find(t, files, "secrets/"+secret)
		}
		for _, n := range s.Networks {
			if _, ok := c.Networks[n]; !ok {
				t.Errorf("%s: network %s is nowhere", name, n)
			}
		}
		for _, d := range []string{s.Healthcheck.Interval, s.Healthcheck.Timeout, s.Healthcheck.StartPeriod, s.Healthcheck.StartInterval} {
			if _, err := time.ParseDuration(d); err != nil {
				t.Errorf("%s: %v", name, err)
			}
		}
		if slices.Contains(engines, name) {
			if len(s.Ports) > 0 || !slices.Equal(s.Networks, []string{"engines"}) {
				t.Errorf("%s can be reached from outside: %v %v", name, s.Ports, s.Networks)
			}
			continue
		}
		processes += s.Deploy.Replicas
		for _, role := range strings.Split(s.Environment["LYCEUM_FLEET_ROLES"], ",") {
			if roles[role] {
				t.Errorf("role %s is there twice", role)
			}
			roles[role] = true
		}
		for _, engine := range engines {
			if s.DependsOn[engine].Condition != "service_healthy" {
				t.Errorf("%s does not wait for %s", name, engine)
			}
		}
		grace, err := time.ParseDuration(s.StopGracePeriod)
		if err != nil || grace <= drainDelay+shutdownTimeout {
			t.Errorf("%s: killed after %s, needs %s", name, grace, drainDelay+shutdownTimeout)
		}
		if !s.ReadOnly || s.User == "" || !slices.Equal(s.CapDrop, []string{"ALL"}) || s.Configs[0].Target != "/etc/lyceum/lyceum.yaml" {
			t.Errorf("%s: %+v", name, s)
		}
		limit, _ := strconv.Atoi(strings.TrimSuffix(s.Deploy.Resources.Limits.Memory, "M"))
		aim, _ := strconv.Atoi(strings.TrimSuffix(s.Environment["GOMEMLIMIT"], "MiB"))
		if aim == 0 || limit <= aim {
			t.Errorf("%s: %d MiB of %d MiB for the garbage collector", name, aim, limit)
		}
		if published := len(s.Ports) > 0; published != (name == "router") || published && s.Deploy.Replicas != 1 {
			t.Errorf("%s publishes %v with %d processes", name, s.Ports, s.Deploy.Replicas)
		}
	}
	for _, r := range table {
		_, named := in.Sizes[r.Name]
		if roles[r.Name] != (r.Pool == "" || named) {
			t.Errorf("role %s runs: %v", r.Name, roles[r.Name])
		}
	}
	for name := range c.Services {
		if router := c.Services["router"]; name != "router" && router.DependsOn[name].Condition != "service_healthy" {
			t.Errorf("the router does not wait for %s", name)
		}
	}
	i := slices.IndexFunc(c.Services["postgres"].Command, func(s string) bool { return strings.HasPrefix(s, "max_connections=") })
	if most, _ := strconv.Atoi(strings.TrimPrefix(c.Services["postgres"].Command[i],
		"max_connections=")); most < processes*processConnections {
		t.Errorf("PostgreSQL takes %d connections, %d processes make %d", most, processes, processes*processConnections)
	}
}

func TestComposeNeedsItsSecrets(t *testing.T) {
	in := input()
	in.Secrets.RedisPassword = ""
	if _, err := Compose(in); err == nil || !strings.Contains(err.Error(), "secrets") {
		t.Errorf("expected an error about secrets, found %v", err)
	}
	in = input()
	in.Secrets.DatabaseURL = "postgres://someone:x@elsewhere/lyceum"
	if _, err := Compose(in); err == nil || !strings.Contains(err.Error(), "postgres://lyceum:PASSWORD@postgres:5432/lyceum") {
		t.Errorf("expected an error about the database, found %v", err)
	}
}

func TestDockerComposeTakesIt(t *testing.T) {
	if err := exec.Command("docker", "compose", "version").Run(); err != nil {
		t.Skip("the compose plugin of docker is not installed; the file is decoded in TestComposeStartsInOrder")
	}
	files, err := Compose(input())
	if err != nil {
		t.Fatal(err)
	}
	cmd := exec.Command("docker", "compose", "config", "--quiet")
	cmd.Dir = write(t, files)
	if out, err := cmd.CombinedOutput(); err != nil || len(out) > 0 {
		t.Errorf("%v: %s", err, out)
	}
}

func TestGroupsPutRolesTogether(t *testing.T) {
	sizes := map[string]Size{}
	for _, r := range table {
		if r.Pool == "" {
			sizes[r.Name] = Size{Min: 2}
		}
	}
	var got []string
	for _, g := range defaultGroups(table, sizes) {
		got = append(got, fmt.Sprintf("%s=%s*%d", g.Name, strings.Join(g.Roles, "+"), g.Replicas))
	}
	if want := "router=router*1 client=client+media*2 sync=sync+push*2 events=events*2 writers=receipts*2"; strings.Join(got, " ") != want {
		t.Errorf("expected %s\nfound    %s", want, strings.Join(got, " "))
	}
}
