package deploy

import (
	"bytes"
	"errors"
	"fmt"
	"os/exec"
	"slices"
	"strings"
	"testing"

	appsv1 "k8s.io/api/apps/v1"
	autoscalingv2 "k8s.io/api/autoscaling/v2"
	corev1 "k8s.io/api/core/v1"
	networkingv1 "k8s.io/api/networking/v1"
	policyv1 "k8s.io/api/policy/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/labels"
	"sigs.k8s.io/json"
	"sigs.k8s.io/yaml"
)

// cluster are the resources of a set of files, decoded into the types of the Kubernetes API.
type cluster struct {
	deployments []appsv1.Deployment
	services    []corev1.Service
	scalers     []autoscalingv2.HorizontalPodAutoscaler
	budgets     []policyv1.PodDisruptionBudget
	policies    []networkingv1.NetworkPolicy
	secrets     []corev1.Secret
	configs     []corev1.ConfigMap
	accounts    []corev1.ServiceAccount
	namespaces  []corev1.Namespace
}

// documents splits a file of YAML.
func documents(body []byte) [][]byte {
	var out [][]byte
	for _, d := range bytes.Split(body, []byte("\n---\n")) {
		if len(bytes.TrimSpace(d)) > 0 {
			out = append(out, d)
		}
	}
	return out
}

func decode[T any](t *testing.T, list *[]T, body []byte) {
	t.Helper()
	var v T
	if err := strictly(body, &v); err != nil {
		t.Fatalf("%v in\n%s", err, body)
	}
	*list = append(*list, v)
}

// strictly decodes as the API server does with strict validation: unknown and doubled fields are errors, and so
// is a field in other capitals, which encoding/json would take.
func strictly(body []byte, v any) error {
	text, err := yaml.YAMLToJSONStrict(body)
	if err != nil {
		return err
	}
	wrong, err := json.UnmarshalStrict(text, v)
	return errors.Join(append(wrong, err)...)
}

func (c *cluster) read(t *testing.T, body []byte) {
	t.Helper()
	for _, d := range documents(body) {
		var kind metav1.TypeMeta
		if err := yaml.Unmarshal(d, &kind); err != nil {
			t.Fatalf("%v in\n%s", err, d)
		}
		switch kind.APIVersion + " " + kind.Kind {
		case "apps/v1 Deployment":
			decode(t, &c.deployments, d)
		case "v1 Service":
			decode(t, &c.services, d)
		case "autoscaling/v2 HorizontalPodAutoscaler":
			decode(t, &c.scalers, d)
		case "policy/v1 PodDisruptionBudget":
			decode(t, &c.budgets, d)
		case "networking.k8s.io/v1 NetworkPolicy":
			decode(t, &c.policies, d)
		case "v1 Secret":
			decode(t, &c.secrets, d)
		case "v1 ConfigMap":
			decode(t, &c.configs, d)
		case "v1 ServiceAccount":
			decode(t, &c.accounts, d)
		case "v1 Namespace":
			decode(t, &c.namespaces, d)
		default:
			t.Errorf("%s %s is of no known kind", kind.APIVersion, kind.Kind)
		}
	}
}

func readCluster(t *testing.T, in Input) (*cluster, []File) {
	t.Helper()
	files, err := Kubernetes(in)
	if err != nil {
		t.Fatal(err)
	}
	var kustomization struct {
		Resources []string `json:"resources"`
	}
	if err := yaml.Unmarshal(find(t, files, "kustomization.yaml"), &kustomization); err != nil {
		t.Fatal(err)
	}
	c := &cluster{}
	for _, name := range kustomization.Resources {
		c.read(t, find(t, files, name))
	}
	return c, files
}

func TestKubernetesResourcesFitTogether(t *testing.T) {
	in := input()
	c, _ := readCluster(t, in)
	checkCluster(t, c)
	if len(c.secrets) != 1 || len(c.secrets[0].StringData) != 4 || c.secrets[0].Name != "lyceum-secrets" {
		t.Errorf("expected one Secret with four keys, found %+v", c.secrets)
	}

	in.Secrets = Secrets{}
	c, files := readCluster(t, in)
	if len(c.secrets) != 0 || !strings.Contains(string(find(t, files, "kustomization.yaml")), "kubectl create secret generic lyceum-secrets") {
		t.Error("without secrets, expected no Secret and the command that makes it")
	}
}

func checkCluster(t *testing.T, c *cluster) {
	t.Helper()
	sizes := map[string]Size{}
	for _, r := range table {
		given, named := input().Sizes[r.Name]
		if r.Pool == "" || named {
			sizes[r.Name] = given.withDefaults(r)
		}
	}
	if len(c.deployments) != len(sizes) || len(c.scalers) != len(sizes) || len(c.services) != len(sizes)+1 {
		t.Fatalf("%d Deployments, %d autoscalers, %d Services for %d roles", len(c.deployments), len(c.scalers), len(c.services), len(sizes))
	}
	byName := map[string]appsv1.Deployment{}
	for _, d := range c.deployments {
		byName[d.Name] = d
		checkDeployment(t, d, sizes)
	}
	for _, s := range c.services {
		found := false
		for _, d := range c.deployments {
			if !labels.SelectorFromSet(s.Spec.Selector).Matches(labels.Set(d.Spec.Template.Labels)) {
				continue
			}
			found = true
			for _, port := range s.Spec.Ports {
				if !slices.ContainsFunc(d.Spec.Template.Spec.Containers[0].Ports,
					func(p corev1.ContainerPort) bool { return p.Name == port.TargetPort.StrVal }) {
					t.Errorf("Service %s: %s has no port %q", s.Name, d.Name, port.TargetPort.StrVal)
				}
			}
		}
		if !found {
			t.Errorf("Service %s selects nothing", s.Name)
		}
		for _, port := range s.Spec.Ports {
			if port.Port == InternalPort {
				t.Errorf("Service %s shows the internal listener", s.Name)
			}
		}
	}
	for _, h := range c.scalers {
		d, ok := byName[h.Spec.ScaleTargetRef.Name]
		if !ok || h.Spec.ScaleTargetRef.Kind != "Deployment" || h.Spec.ScaleTargetRef.APIVersion != "apps/v1" {
			t.Errorf("autoscaler %s has no target", h.Name)
			continue
		}
		name := d.Labels["app.kubernetes.io/component"]
		size := sizes[name]
		if int(*h.Spec.MinReplicas) != size.Min || int(h.Spec.MaxReplicas) != size.Max {
			t.Errorf("autoscaler %s: %d to %d", h.Name, *h.Spec.MinReplicas, h.Spec.MaxReplicas)
		}
		var metrics []string
		for _, m := range h.Spec.Metrics {
			switch m.Type {
			case autoscalingv2.ResourceMetricSourceType:
				metrics = append(metrics, string(m.Resource.Name))
			case autoscalingv2.PodsMetricSourceType:
				metrics = append(metrics, m.Pods.Metric.Name)
			}
		}
		want := []string{"cpu"}
		for _, r := range table {
			if r.Name == name && r.Stream != "" {
				want = append(want, "lyceum_stream_queued")
			}
			if r.Name == name && writes(r) {
				want = append(want, "lyceum_stream_behind_rows")
			}
		}
		if !slices.Equal(metrics, want) {
			t.Errorf("autoscaler %s: expected %v, found %v", h.Name, want, metrics)
		}
		if *h.Spec.Behavior.ScaleDown.StabilizationWindowSeconds <= *h.Spec.Behavior.ScaleUp.StabilizationWindowSeconds {
			t.Errorf("autoscaler %s goes down as fast as up", h.Name)
		}
	}
	for name, size := range sizes {
		has := slices.ContainsFunc(c.budgets, func(b policyv1.PodDisruptionBudget) bool {
			s, err := metav1.LabelSelectorAsSelector(b.Spec.Selector)
			return err == nil && b.Name == "lyceum-"+name && s.Matches(labels.Set(byName[b.Name].Spec.Template.Labels))
		})
		if has != (size.Min >= 2) {
			t.Errorf("%s with at least %d pods has a disruption budget: %v", name, size.Min, has)
		}
	}
	if len(c.accounts) != 1 || *c.accounts[0].AutomountServiceAccountToken {
		t.Error("expected one ServiceAccount without a token")
	}
}

func checkDeployment(t *testing.T, d appsv1.Deployment, sizes map[string]Size) {
	t.Helper()
	s, err := metav1.LabelSelectorAsSelector(d.Spec.Selector)
	if err != nil || !s.Matches(labels.Set(d.Spec.Template.Labels)) {
		t.Errorf("%s does not select its own pods", d.Name)
	}
	if d.Spec.Replicas != nil {
		t.Errorf("%s sets replicas, which belong to the autoscaler", d.Name)
	}
	if u := d.Spec.Strategy.RollingUpdate; u == nil || u.MaxUnavailable.IntValue() != 0 || u.MaxSurge.IntValue() != 1 {
		t.Errorf("%s: rolling update %+v", d.Name, u)
	}
	name := d.Labels["app.kubernetes.io/component"]
	size, ok := sizes[name]
	if !ok {
		t.Errorf("%s belongs to no role", d.Name)
	}
	pod := d.Spec.Template.Spec
	box := pod.Containers[0]
	if box.Image != "registry.example.org/apps/lyceum:1.2.3" {
		t.Errorf("%s: image %s", d.Name, box.Image)
	}
	ports := map[string]int32{}
	for _, p := range box.Ports {
		ports[p.Name] = p.ContainerPort
	}
	if ports["http"] != PublicPort || ports["internal"] != InternalPort || ports["ops"] != OpsPort {
		t.Errorf("%s: ports %v", d.Name, ports)
	}
	for what, probe := range map[string]*corev1.Probe{
		"startup": box.StartupProbe, "readiness": box.ReadinessProbe,
		"liveness": box.LivenessProbe,
	} {
		if probe == nil || probe.HTTPGet == nil || ports[probe.HTTPGet.Port.StrVal] == 0 {
			t.Errorf("%s: no %s probe on a port that it has", d.Name, what)
		}
	}
	env := map[string]corev1.EnvVar{}
	order := map[string]int{}
	for i, e := range box.Env {
		env[e.Name], order[e.Name] = e, i
	}
	if env["LYCEUM_FLEET_ROLES"].Value != name || env["LYCEUM_FLEET_ADVERTISE"].Value != fmt.Sprintf("$(POD_IP):%d", InternalPort) ||
		order["POD_IP"] > order["LYCEUM_FLEET_ADVERTISE"] {
		t.Errorf("%s: environment %+v", d.Name, box.Env)
	}
	if ref := env["GOMEMLIMIT"].ValueFrom.ResourceFieldRef; ref.Resource != "requests.memory" || ref.ContainerName != box.Name {
		t.Errorf("%s: GOMEMLIMIT from %+v", d.Name, ref)
	}
	if got := box.Resources.Limits.Memory().Value(); got != size.Memory || box.Resources.Requests.Memory().Value() >= got {
		t.Errorf("%s: memory %d, expected %d, and less requested", d.Name, got, size.Memory)
	}
	if got := box.Resources.Requests.Cpu().MilliValue(); got != int64(size.CPU) ||
		box.Resources.Limits.Cpu().MilliValue() != int64(size.CPULimit) {
		t.Errorf("%s: cpu %d, expected %d", d.Name, got, size.CPU)
	}
	needs := box.Lifecycle.PreStop.Sleep.Seconds + int64(seconds(drainDelay)+seconds(shutdownTimeout))
	if *pod.TerminationGracePeriodSeconds < needs+10 {
		t.Errorf("%s may be killed after %d s and needs %d s to end", d.Name, *pod.TerminationGracePeriodSeconds, needs)
	}
	if *pod.AutomountServiceAccountToken || *pod.EnableServiceLinks || !*pod.SecurityContext.RunAsNonRoot ||
		pod.SecurityContext.SeccompProfile.Type != corev1.SeccompProfileTypeRuntimeDefault {
		t.Errorf("%s: pod %+v", d.Name, pod.SecurityContext)
	}
	if c := box.SecurityContext; *c.AllowPrivilegeEscalation || !*c.ReadOnlyRootFilesystem ||
		!slices.Equal(c.Capabilities.Drop, []corev1.Capability{"ALL"}) {
		t.Errorf("%s: container %+v", d.Name, c)
	}
	for _, m := range box.VolumeMounts {
		i := slices.IndexFunc(pod.Volumes, func(v corev1.Volume) bool { return v.Name == m.Name })
		if i < 0 {
			t.Errorf("%s mounts %s, which it does not have", d.Name, m.Name)
		} else if v := pod.Volumes[i]; v.EmptyDir != nil && v.EmptyDir.SizeLimit == nil {
			t.Errorf("%s: %s has no limit", d.Name, m.Name)
		}
	}
	var over []string
	for _, spread := range pod.TopologySpreadConstraints {
		over = append(over, spread.TopologyKey)
	}
	if !slices.Equal(over, []string{"kubernetes.io/hostname", "topology.kubernetes.io/zone"}) {
		t.Errorf("%s spreads over %v", d.Name, over)
	}
}

func TestNetworkPoliciesCoverThePorts(t *testing.T) {
	in := input()
	in.PostgreSQL = Place{Address: "db.data.svc.cluster.local:5433", Labels: map[string]string{"role": "primary"}}
	in.Redis = Place{Address: "redis.example.net:6380"}
	in.S3 = S3{Endpoint: "https://192.0.2.7", Bucket: "files"}
	c, _ := readCluster(t, in)
	into, out := map[int32][]string{}, map[int32][]string{}
	everything := 0
	describe := func(p networkingv1.NetworkPolicyPeer) string {
		var s []string
		if p.NamespaceSelector != nil {
			s = append(s, "namespace "+p.NamespaceSelector.MatchLabels["kubernetes.io/metadata.name"])
		}
		if p.PodSelector != nil {
			s = append(s, "pods "+labels.Set(p.PodSelector.MatchLabels).String())
		}
		if p.IPBlock != nil {
			s = append(s, p.IPBlock.CIDR)
		}
		return strings.Join(s, " ")
	}
	for _, p := range c.policies {
		for _, d := range c.deployments {
			s, err := metav1.LabelSelectorAsSelector(&p.Spec.PodSelector)
			if err != nil {
				t.Fatal(err)
			}
			if matches := s.Matches(labels.Set(d.Spec.Template.Labels)); matches != (p.Name != "lyceum-internet" || d.Name == "lyceum-push") {
				t.Errorf("policy %s selects %s: %v", p.Name, d.Name, matches)
			}
		}
		if len(p.Spec.Ingress) == 0 && len(p.Spec.Egress) == 0 && len(p.Spec.PolicyTypes) == 2 {
			everything++
		}
		for _, rule := range p.Spec.Ingress {
			for _, port := range rule.Ports {
				for _, from := range rule.From {
					into[port.Port.IntVal] = append(into[port.Port.IntVal], describe(from))
				}
			}
		}
		for _, rule := range p.Spec.Egress {
			for _, port := range rule.Ports {
				for _, to := range rule.To {
					out[port.Port.IntVal] = append(out[port.Port.IntVal], describe(to))
				}
			}
		}
	}
	if everything != 1 {
		t.Error("there is no policy that refuses the rest")
	}
	fleet := "pods app.kubernetes.io/name=lyceum"
	expect := func(what string, got map[int32][]string, want map[int32][]string) {
		if len(got) != len(want) {
			t.Errorf("%s: expected ports %v, found %v", what, want, got)
		}
		for port, peers := range want {
			if !slices.Equal(got[port], peers) {
				t.Errorf("%s %d: expected %q, found %q", what, port, peers, got[port])
			}
		}
	}
	expect("in", into, map[int32][]string{InternalPort: {fleet}, PublicPort: {fleet, "namespace ingress"}, OpsPort: {"namespace monitoring"}})
	expect("out", out, map[int32][]string{
		InternalPort: {fleet}, PublicPort: {fleet}, 53: {"namespace kube-system", "namespace kube-system"},
		5433: {"namespace data pods role=primary"}, 6380: {"0.0.0.0/0", "::/0"}, 443: {"192.0.2.7/32", "0.0.0.0/0", "::/0"},
		8448: {"0.0.0.0/0", "::/0"},
	})
}

func TestKustomizeBuildsIt(t *testing.T) {
	kubectl, err := exec.LookPath("kubectl")
	if err != nil {
		t.Skip("kubectl is not installed; the resources are decoded in the other tests")
	}
	in := input()
	in.Resources = []File{{Name: "extra.yaml", Mode: 0o644, Body: []byte("apiVersion: v1\nkind: ConfigMap\nmetadata:\n  name: extra\n")}}
	files, err := Kubernetes(in)
	if err != nil {
		t.Fatal(err)
	}
	out, err := exec.Command(kubectl, "kustomize", write(t, files)).CombinedOutput()
	if err != nil {
		t.Fatalf("%v: %s", err, out)
	}
	c := &cluster{}
	c.read(t, out)
	checkCluster(t, c)
	if len(c.configs) != 2 {
		t.Fatalf("expected the generated and the added ConfigMap, found %d", len(c.configs))
	}
	for _, config := range c.configs {
		if config.Name == "extra" {
			continue
		}
		if config.Data["lyceum.yaml"] != string(find(t, files, "lyceum.yaml")) {
			t.Error("the ConfigMap does not hold lyceum.yaml")
		}
		for _, d := range c.deployments {
			if got := d.Spec.Template.Spec.Volumes[0].ConfigMap.Name; got != config.Name || got == "lyceum-config" {
				t.Errorf("%s mounts %s, not %s", d.Name, got, config.Name)
			}
			if d.Namespace != "lyceum" {
				t.Errorf("%s is in namespace %q", d.Name, d.Namespace)
			}
		}
	}
}

// TestAMisspeltFieldIsRefused shows that the decoding of these tests is strict.
func TestAMisspeltFieldIsRefused(t *testing.T) {
	files, err := Kubernetes(input())
	if err != nil {
		t.Fatal(err)
	}
	body := bytes.Replace(documents(find(t, files, "role-sync.yaml"))[0], []byte("readOnlyRootFilesystem"),
		[]byte("readOnlyRootFileSystem"), 1)
	var d appsv1.Deployment
	if err := strictly(body, &d); err == nil {
		t.Error("readOnlyRootFileSystem was taken")
	}
}
