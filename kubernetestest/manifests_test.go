//go:build kubernetes

package kubernetestest

import (
	"bytes"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	appsv1 "k8s.io/api/apps/v1"
	autoscalingv2 "k8s.io/api/autoscaling/v2"
	corev1 "k8s.io/api/core/v1"
	discoveryv1 "k8s.io/api/discovery/v1"
	networkingv1 "k8s.io/api/networking/v1"
	policyv1 "k8s.io/api/policy/v1"

	"lyceum/fleet"
	"lyceum/ops/deploy"
)

const (
	core  = "/api/v1/namespaces/lyceum/"
	apps  = "/apis/apps/v1/namespaces/lyceum/"
	scale = "/apis/autoscaling/v2/namespaces/lyceum/horizontalpodautoscalers"
)

func input() deploy.Input {
	in := deploy.Input{
		ServerName: "example.org", Version: "1.2.3", Roles: fleet.Roles, Secrets: deploy.FreshSecrets(), Revision: 1,
		PostgreSQL: deploy.Place{
			Address: "db.data.svc:5432",
		}, Redis: deploy.Place{Address: "redis.example.net:6379", Networks: []string{"192.0.2.0/24"}},
		Sizes: map[string]deploy.Size{"events": {Min: 3, Max: 6}},
	}
	for _, r := range fleet.Roles {
		if r.Pool != "" { // pools too, so that every role has its workload
			in.Sizes[r.Name] = deploy.Size{Min: 1, Max: 3}
		}
	}
	return in
}

// render writes the manifests into a directory and returns it.
func render(t *testing.T, in deploy.Input) string {
	t.Helper()
	files, err := deploy.Kubernetes(in)
	if err != nil {
		t.Fatal(err)
	}
	dir := t.TempDir()
	for _, f := range files {
		if err := os.WriteFile(filepath.Join(dir, f.Name), f.Body, f.Mode); err != nil {
			t.Fatal(err)
		}
	}
	return dir
}

func TestManifestsOnARealControlPlane(t *testing.T) {
	p := startPlane(t)
	in := input()
	dir := render(t, in)

	out := p.kubectl("apply", "--server-side", "--validate=strict", "-k", dir)
	if strings.Contains(out, "Warning") {
		t.Errorf("the API server warns:\n%s", out)
	}
	t.Logf("applied %d resources", strings.Count(out, "serverside-applied"))

	// A misspelt field is refused, so what was applied is spelt right.
	events, err := os.ReadFile(filepath.Join(dir, "role-events.yaml"))
	if err != nil {
		t.Fatal(err)
	}
	wrong := filepath.Join(t.TempDir(), "wrong.yaml")
	if err := os.WriteFile(wrong, bytes.Replace(events, []byte("maxUnavailable: 0"), []byte("maxUnavailble: 0"), 1), 0o600); err != nil {
		t.Fatal(err)
	}
	if out, err := p.tryKubectl("apply", "--server-side", "--validate=strict", "--namespace", "lyceum", "-f", wrong); err == nil ||
		!strings.Contains(out, "maxUnavailble") {
		t.Errorf("a misspelt field was taken: %s", out)
	}

	// The autoscalers raise every Deployment to its least number; the controllers make the pods.
	list := get[appsv1.DeploymentList](p, apps+"deployments")
	if len(list.Items) != len(fleet.Roles) {
		t.Errorf("%d Deployments for %d roles", len(list.Items), len(fleet.Roles))
	}
	least := map[string]int32{}
	want := 0
	for _, h := range get[autoscalingv2.HorizontalPodAutoscalerList](p, scale).Items {
		least[h.Spec.ScaleTargetRef.Name] = *h.Spec.MinReplicas
		want += int(*h.Spec.MinReplicas)
	}
	if len(least) != len(fleet.Roles) {
		t.Errorf("%d autoscalers for %d roles", len(least), len(fleet.Roles))
	}
	began := time.Now()
	p.until("there are as many pods as the autoscalers want", 2*time.Minute, func() bool {
		return len(get[corev1.PodList](p, core+"pods").Items) == want
	})
	for _, pod := range get[corev1.PodList](p, core+"pods").Items {
		if pod.Status.Phase != corev1.PodPending {
			t.Errorf("%s is %s, without a node", pod.Name, pod.Status.Phase)
		}
	}
	t.Logf("%d pending pods after %s", want, time.Since(began).Round(100*time.Millisecond))
	sets := get[appsv1.ReplicaSetList](p, apps+"replicasets")
	if len(sets.Items) != len(fleet.Roles) {
		t.Errorf("%d ReplicaSets for %d Deployments", len(sets.Items), len(fleet.Roles))
	}
	budgets := func() []policyv1.PodDisruptionBudget {
		return get[policyv1.PodDisruptionBudgetList](p, "/apis/policy/v1/namespaces/lyceum/poddisruptionbudgets").Items
	}
	p.until("the budgets know their pods and allow no disruption of pods that do not run", time.Minute, func() bool {
		for _, b := range budgets() {
			if b.Status.ExpectedPods != least[b.Name] || b.Status.DesiredHealthy != least[b.Name]-1 || b.Status.DisruptionsAllowed != 0 {
				return false
			}
		}
		return true
	})
	if n := len(get[networkingv1.NetworkPolicyList](p, "/apis/networking.k8s.io/v1/namespaces/lyceum/networkpolicies").Items); n != 4 {
		t.Errorf("%d network policies", n)
	}

	// With pods that run, Services have addresses, Deployments are available and budgets allow one pod to go.
	defer p.kubelet("lyceum")()
	p.until("every Deployment is available", 2*time.Minute, func() bool { return available(p, least) })
	services := get[corev1.ServiceList](p, core+"services").Items
	p.until("every Service has ready addresses on all its ports", time.Minute, func() bool {
		addresses := map[string]int{}
		for _, s := range get[discoveryv1.EndpointSliceList](p, "/apis/discovery.k8s.io/v1/namespaces/lyceum/endpointslices").Items {
			for _, e := range s.Endpoints {
				if e.Conditions.Ready != nil && *e.Conditions.Ready && len(s.Ports) > 0 {
					addresses[s.Labels["kubernetes.io/service-name"]] += len(s.Ports)
				}
			}
		}
		for _, s := range services {
			n, ok := least[s.Name]
			if !ok {
				n = least["lyceum-router"] // the Service for clients
			}
			if addresses[s.Name] != int(n)*len(s.Spec.Ports) {
				return false
			}
		}
		return len(services) == len(fleet.Roles)+1
	})
	p.until("the budgets allow one pod to go", time.Minute, func() bool {
		for _, b := range budgets() {
			if b.Status.DisruptionsAllowed != 1 {
				return false
			}
		}
		return true
	})

	scaleEverything(p, least)
	rollEverything(p, in, least)

	p.kubectl("delete", "--wait=false", "-k", dir)
	p.until("nothing is left", 2*time.Minute, func() bool {
		code, _ := p.call("GET", "/api/v1/namespaces/lyceum", "", nil)
		return code == http.StatusNotFound
	})
}

func available(p *plane, least map[string]int32) bool {
	for _, d := range get[appsv1.DeploymentList](p, apps+"deployments").Items {
		if d.Status.AvailableReplicas != least[d.Name] || d.Status.UpdatedReplicas != least[d.Name] || d.Status.Replicas != least[d.Name] ||
			d.Status.ObservedGeneration != d.Generation {
			return false
		}
	}
	return true
}

// scaleEverything scales by hand, up and down and too far.
func scaleEverything(p *plane, least map[string]int32) {
	most := map[string]int32{}
	for _, h := range get[autoscalingv2.HorizontalPodAutoscalerList](p, scale).Items {
		most[h.Spec.ScaleTargetRef.Name] = h.Spec.MaxReplicas
	}
	all := func(what string, want map[string]int32, args ...string) {
		p.t.Helper()
		p.kubectl(append([]string{"scale", "deployment", "--all", "--namespace", "lyceum"}, args...)...)
		p.until(what, 2*time.Minute, func() bool { return available(p, want) })
	}
	up := map[string]int32{}
	for name := range least {
		up[name] = 3
	}
	all("every Deployment has 3 pods", up, "--replicas=3")
	all("the autoscalers have brought back what went above their maximum", most, "--replicas=12")
	all("the autoscalers have brought back what went below their minimum", least, "--replicas=1")
}

// rollEverything changes the configuration and watches that no Deployment ever has fewer pods than before.
func rollEverything(p *plane, in deploy.Input, least map[string]int32) {
	before := get[appsv1.ReplicaSetList](p, apps+"replicasets").Items
	in.Revision, in.Version = 2, "1.2.4"
	p.kubectl("apply", "--server-side", "--validate=strict", "-k", render(p.t, in))
	fewest := map[string]int32{}
	began := time.Now()
	p.until("every pod has the new version", 4*time.Minute, func() bool {
		for _, d := range get[appsv1.DeploymentList](p, apps+"deployments").Items {
			if n, seen := fewest[d.Name]; !seen || d.Status.AvailableReplicas < n {
				fewest[d.Name] = d.Status.AvailableReplicas
			}
		}
		// What the ReplicaSets are told; their statuses are of different moments.
		told := map[string]int32{}
		for _, set := range get[appsv1.ReplicaSetList](p, apps+"replicasets").Items {
			told[set.OwnerReferences[0].Name] += *set.Spec.Replicas
		}
		for name, n := range told {
			if n > least[name]+1 {
				p.t.Errorf("%s is told to have %d pods, one more than %d was expected at most", name, n, least[name])
			}
		}
		return available(p, least)
	})
	for name, n := range fewest {
		if n < least[name] {
			p.t.Errorf("%s had only %d of %d pods during the upgrade", name, n, least[name])
		}
	}
	if after := get[appsv1.ReplicaSetList](p, apps+"replicasets").Items; len(after) != 2*len(before) {
		p.t.Errorf("%d ReplicaSets after the upgrade, %d before", len(after), len(before))
	}
	for _, pod := range get[corev1.PodList](p, core+"pods").Items {
		if image := pod.Spec.Containers[0].Image; !strings.HasSuffix(image, ":1.2.4") {
			p.t.Errorf("%s runs %s", pod.Name, image)
		}
	}
	p.t.Logf("the upgrade of %d Deployments took %s, never with fewer pods than before", len(fewest), time.Since(began).Round(time.Second))
}
