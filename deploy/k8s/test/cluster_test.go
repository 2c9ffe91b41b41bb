package k8s_test

import (
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"
)

// domain is a deployment on the cluster.
type domain struct {
	name, namespace, overlay string
	dir                      string // of its site
	arguments                []string
}

// makeSites makes the domains' files, each knowing the others where they are in this cluster.
func makeSites(t *testing.T, domains ...*domain) {
	t.Helper()
	root := t.TempDir()
	t.Setenv("MIMIMI", program(t, "mimimi"))
	script := filepath.Join(repository(), "deploy", "k8s", "site")
	site := func(d *domain, more ...string) {
		args := append([]string{script, "-overlay", d.overlay, "-domain", d.name, "-namespace", d.namespace, "-dir", d.dir}, append(more, d.arguments...)...)
		if _, err := command(t.Context(), "", "", args...); err != nil {
			t.Fatal(err)
		}
	}
	peers := peerFiles(t, root, domains, site)
	for i, d := range domains {
		var more []string
		for j, p := range peers {
			if i != j {
				more = append(more, "-peer", p)
			}
		}
		site(d, more...)
	}
}

// peerFiles makes each site once, and the peer file that the others get: with a Service's name in place of one that a public name server would know.
func peerFiles(t *testing.T, root string, domains []*domain, site func(*domain, ...string)) (peers []string) {
	t.Helper()
	for _, d := range domains {
		d.dir = filepath.Join(root, d.name)
		site(d)
		b, err := os.ReadFile(filepath.Join(d.dir, "peer.json"))
		if err != nil {
			t.Fatal(err)
		}
		public, here := "https://federation."+d.name, "https://federation."+d.namespace+".svc"
		path := filepath.Join(root, d.name+".json")
		if err := os.WriteFile(path, []byte(strings.Replace(string(b), public, here, 1)), 0o600); err != nil {
			t.Fatal(err)
		}
		peers = append(peers, path)
	}
	return peers
}

// deploy applies a site and waits until all of it runs and is ready.
func (d *domain) deploy(t *testing.T) {
	t.Helper()
	begin := time.Now()
	kubectl(t, "apply", "--server-side", "--validate=strict", "-k", d.dir)
	t.Cleanup(func() {
		if t.Failed() {
			d.explain(t)
		}
	})
	d.settled(t)
	restarts := 0
	for _, p := range list(t, d.namespace, "pods") {
		n, _ := p.at("status", "containerStatuses", 0, "restartCount").(float64)
		restarts += int(n)
	}
	if restarts > 0 {
		t.Fatalf("%s: containers restarted %d times before they were ready", d.name, restarts)
	}
	figure(t, "%s (overlay %s): every pod is Running and Ready after %.0f s, without a restart, in a namespace that enforces the level restricted", d.name, d.overlay, time.Since(begin).Seconds())
}

// explain shows what a domain's pods said.
func (d *domain) explain(t *testing.T) {
	for _, args := range [][]string{
		{"get", "pods,hpa,pdb", "-n", d.namespace, "-o", "wide"}, {"get", "events", "-n", d.namespace, "--sort-by=.lastTimestamp"},
		{"logs", "-n", d.namespace, "-l", "app.kubernetes.io/part-of=mimimi", "--prefix", "--tail=20"},
	} {
		out, err := command(t.Context(), "", "", kubectlArgs(args...)...)
		t.Logf("%s: %s %v", d.name, out, err)
	}
}

// settled waits until every workload has what it wants, of its present version.
func (d *domain) settled(t *testing.T) {
	t.Helper()
	eventually(t, d.name+" to be ready", func() (bool, string) {
		workloads := list(t, d.namespace, "deployments,statefulsets,jobs")
		if len(workloads) < len(services)+3 {
			return false, "not everything is there yet"
		}
		for _, w := range workloads {
			if why := unsettled(w); why != "" {
				return false, why
			}
		}
		return true, ""
	})
}

// unsettled says what a workload still waits for.
func unsettled(o object) string {
	n := func(path ...any) float64 {
		v, _ := o.at(path...).(float64)
		return v
	}
	name := o.kind() + " " + o.name()
	want := n("spec", "replicas")
	switch {
	case o.kind() == "Job":
		if n("status", "succeeded") < 1 {
			return name + " has not succeeded"
		}
	case n("status", "observedGeneration") < n("metadata", "generation"):
		return name + " has not been looked at"
	case n("status", "updatedReplicas") < want || n("status", "readyReplicas") < want || n("status", "availableReplicas") < want || n("status", "replicas") > want:
		return fmt.Sprintf("%s has %v pods, %v ready, %v new, and wants %v", name, n("status", "replicas"), n("status", "readyReplicas"), n("status", "updatedReplicas"), want)
	case o.kind() == "StatefulSet" && o.text("status", "updateRevision") != o.text("status", "currentRevision"):
		return name + " is being updated"
	}
	return ""
}

// pods are the names of a domain's running pods of a kind.
func (d *domain) pods(t *testing.T, kind string) []string {
	t.Helper()
	var names []string
	for _, p := range list(t, d.namespace, "pods", "-l", "app.kubernetes.io/name="+kind) {
		if p.text("status", "phase") == "Running" && p.at("metadata", "deletionTimestamp") == nil {
			names = append(names, p.name())
		}
	}
	if len(names) == 0 {
		t.Fatalf("%s has no %s", d.name, kind)
	}
	return names
}

// evict asks the API server to evict a pod, as kubectl drain does, and asks again while a PodDisruptionBudget forbids it. It returns how often it did.
func (d *domain) evict(t *testing.T, pod string) (refused int) {
	t.Helper()
	body, err := json.Marshal(map[string]any{"apiVersion": "policy/v1", "kind": "Eviction", "metadata": map[string]string{"name": pod, "namespace": d.namespace}})
	if err != nil {
		t.Fatal(err)
	}
	path := fmt.Sprintf("/api/v1/namespaces/%s/pods/%s/eviction", d.namespace, pod)
	eventually(t, "the budget to allow the eviction of "+pod, func() (bool, string) {
		_, err := command(t.Context(), "", string(body), kubectlArgs("create", "--raw", path, "-f", "-")...)
		switch {
		case err == nil || strings.Contains(err.Error(), "NotFound"): // scaled down meanwhile
			return true, ""
		case !strings.Contains(err.Error(), "disruption budget"):
			t.Fatal(err)
		}
		refused++
		return false, err.Error()
	})
	return refused
}

// TestCluster runs two federated domains on the cluster, and disturbs them while people talk.
func TestCluster(t *testing.T) {
	if os.Getenv("KUBECONFIG") == "" {
		t.Skip("no cluster: set KUBECONFIG, or run deploy/k8s/test/run as root where k8s-node is")
	}
	a := &domain{name: "a.example", namespace: "mimimi-a", overlay: "dev"}
	b := &domain{name: "b.example", namespace: "mimimi-b", overlay: "dev"}
	c := &domain{name: "c.example", namespace: "mimimi-c", overlay: "prod", arguments: []string{"-partitions", "4", "-component", "small"}}
	makeSites(t, a, b, c)
	for _, d := range []*domain{a, b, c} {
		kubectl(t, "delete", "namespace", d.namespace, "--ignore-not-found")
	}
	apply(t, "apiVersion: v1\nkind: Namespace\nmetadata: {name: "+visitors+", labels: {pod-security.kubernetes.io/enforce: restricted}}\n")

	step := func(name string, f func(t *testing.T)) {
		if !t.Failed() {
			t.Run(name, f)
		}
	}
	step("two domains", func(t *testing.T) {
		a.deploy(t)
		b.deploy(t)
	})
	step("conversation", func(t *testing.T) { converse(t, a, b) })
	step("disturbances", func(t *testing.T) { disturb(t, a, b) })
	if testing.Short() {
		t.Log("the prod overlay is left out: -short")
		return
	}
	step("autoscaler", func(t *testing.T) { autoscale(t, a, b) })
	step("prod", func(t *testing.T) {
		kubectl(t, "delete", "namespace", b.namespace, "--wait=false") // its share of the machine
		c.deploy(t)
		replicated(t, c)
	})
	step("prod disturbances", func(t *testing.T) { disturbReplicated(t, a, c) })
}

// converse has the demo's people talk, through the domains' Services.
func converse(t *testing.T, a, b *domain) {
	startVisitor(t, "visitor", []string{"wait"}, a, b)
	begin := time.Now()
	out := kubectl(t, "exec", "-n", visitors, "visitor", "--", "/mimimi", "demo", "-json", "-on", "/domains/"+a.namespace+".json,/domains/"+b.namespace+".json")
	var r struct {
		Sent      int `json:"messages_sent"`
		Delivered int `json:"messages_delivered"`
		Expected  int `json:"expected_deliveries"`
	}
	if err := json.Unmarshal([]byte(strings.TrimSpace(out)), &r); err != nil {
		t.Fatalf("%v: %s", err, out)
	}
	if r.Sent < 8 || r.Delivered != r.Expected {
		t.Fatalf("the demo: %+v", r)
	}
	figure(t, "the demo's conversation through the Services: %d messages, %d of %d deliveries, %.0f s", r.Sent, r.Delivered, r.Expected, time.Since(begin).Seconds())
}

// kinds are what pods there are.
var kinds = append(slices.Clone(services), "collector", "nats")

// disturb does to two domains what happens to deployments, while people talk.
func disturb(t *testing.T, a, b *domain) {
	both := []*domain{a, b}
	settle := func() {
		for _, d := range both {
			d.settled(t)
		}
	}
	// As many groups as the machine carries, each at the pace of a lively one: a queue keeps 512 entries of a group, which a client that cannot read for a while must not exceed.
	l := startLoad(t, a, b, 6, time.Second)
	for _, kind := range kinds {
		l.during(t, "a pod of "+kind+" deleted at one domain, killed at the other", func() {
			kubectl(t, "delete", "pod", "-n", b.namespace, b.pods(t, kind)[0], "--grace-period=0", "--force")
			kubectl(t, "delete", "pod", "-n", a.namespace, a.pods(t, kind)[0])
			settle()
		})
	}
	l.during(t, "rolling update of every Deployment of both domains at once", func() {
		for _, d := range both {
			kubectl(t, "rollout", "restart", "deployment", "-n", d.namespace)
		}
		settle()
	})
	if testing.Short() {
		t.Log("measuring, the update of NATS, evictions and the autoscaler are left out: -short")
	} else {
		measure(t, l, a, b)
		maintain(t, l, a)
	}
	if t.Run("forbidden connections", func(t *testing.T) { forbidden(t, a, b) }) {
		l.end(t)
	}
}

// maintain does what whoever looks after the cluster does.
func maintain(t *testing.T, l *load, a *domain) {
	l.during(t, "rolling update of the StatefulSet nats (one server)", func() {
		kubectl(t, "rollout", "restart", "statefulset", "-n", a.namespace, "nats")
		a.settled(t)
	})
	refused := 0
	l.during(t, "every pod of a domain evicted within the budgets", func() {
		for _, kind := range kinds {
			for _, p := range a.pods(t, kind) {
				refused += a.evict(t, p)
			}
		}
		a.settled(t)
	})
	figure(t, "evictions that a PodDisruptionBudget put off: %d", refused)
}

// autoscale lets nobody say anything until one hub and one fanout are enough, and then many talk at once.
func autoscale(t *testing.T, a, b *domain) {
	scaling := []string{"hub", "fanout"}
	for _, kind := range scaling {
		eventually(t, "the autoscaler to be content with one "+kind, func() (bool, string) {
			n := a.replicas(t, kind)
			return n == 1, fmt.Sprintf("%d replicas", n)
		})
	}
	begin := time.Now()
	l := startLoad(t, a, b, 4, 80*time.Millisecond)
	for _, kind := range scaling {
		scaled(t, a, kind)
	}
	figure(t, "the autoscaler added a hub and a fanout: %.0f s after the load began to be set up", time.Since(begin).Seconds())
	l.end(t)
}

// replicas is how many pods a Deployment has.
func (d *domain) replicas(t *testing.T, kind string) int {
	t.Helper()
	w := list(t, d.namespace, "deployments", "--field-selector=metadata.name="+kind)
	if len(w) != 1 {
		t.Fatalf("%d deployments %s", len(w), kind)
	}
	n, _ := w[0].at("status", "replicas").(float64)
	return int(n)
}

// scaled waits until the autoscaler has given a Deployment a second replica that is ready.
func scaled(t *testing.T, d *domain, kind string) {
	t.Helper()
	eventually(t, "the autoscaler to add a "+kind, func() (bool, string) {
		h := list(t, d.namespace, "hpa", "--field-selector=metadata.name="+kind)
		w := list(t, d.namespace, "deployments", "--field-selector=metadata.name="+kind)
		if len(h) != 1 || len(w) != 1 {
			t.Fatalf("%s: %d autoscalers, %d deployments", kind, len(h), len(w))
		}
		want, _ := h[0].at("status", "desiredReplicas").(float64)
		ready, _ := w[0].at("status", "readyReplicas").(float64)
		use, _ := h[0].at("status", "currentMetrics", 0, "resource", "current", "averageUtilization").(float64)
		if want >= 2 && ready >= 2 {
			figure(t, "%s at %s: the autoscaler wants %.0f, %.0f are ready, at %.0f%% of the requested CPU", kind, d.name, want, ready, use)
			return true, ""
		}
		return false, fmt.Sprintf("it wants %.0f, %.0f are ready, at %.0f%% of the requested CPU", want, ready, use)
	})
}

// replicated checks that every stream has three copies that are up to date.
func replicated(t *testing.T, d *domain) {
	t.Helper()
	path := fmt.Sprintf("/api/v1/namespaces/%s/pods/nats-0:8222/proxy/jsz?streams=true&config=true", d.namespace)
	eventually(t, "streams with three copies", func() (bool, string) {
		var z struct {
			Accounts []struct {
				Streams []struct {
					Name   string `json:"name"`
					Config struct {
						Replicas int `json:"num_replicas"`
					} `json:"config"`
					Cluster struct {
						Leader   string `json:"leader"`
						Replicas []struct {
							Current bool `json:"current"`
						} `json:"replicas"`
					} `json:"cluster"`
				} `json:"stream_detail"`
			} `json:"account_details"`
		}
		if err := json.Unmarshal([]byte(kubectl(t, "get", "--raw", path)), &z); err != nil {
			t.Fatal(err)
		}
		n := 0
		for _, a := range z.Accounts {
			for _, s := range a.Streams {
				n++
				if s.Config.Replicas != 3 || s.Cluster.Leader == "" || len(s.Cluster.Replicas) != 2 {
					return false, fmt.Sprintf("%s has %d copies and the leader %q", s.Name, s.Config.Replicas, s.Cluster.Leader)
				}
				for _, r := range s.Cluster.Replicas {
					if s.Cluster.Leader == "nats-0" && !r.Current { // only a leader knows
						return false, s.Name + " has a copy that is behind"
					}
				}
			}
		}
		if n < 20 {
			return false, fmt.Sprintf("%d streams", n)
		}
		figure(t, "%s: %d streams on three servers each", d.name, n)
		return true, ""
	})
}

// disturbReplicated updates and evicts what the prod overlay runs, under load between it and another domain.
func disturbReplicated(t *testing.T, a, c *domain) {
	l := startLoad(t, a, c, 2, 500*time.Millisecond)
	l.during(t, "prod: a server of NATS killed", func() {
		kubectl(t, "delete", "pod", "-n", c.namespace, "nats-1", "--grace-period=0", "--force")
		c.settled(t)
	})
	l.during(t, "prod: rolling update of every Deployment", func() {
		kubectl(t, "rollout", "restart", "deployment", "-n", c.namespace)
		c.settled(t)
	})
	l.during(t, "prod: rolling update of the StatefulSet nats (three servers)", func() {
		kubectl(t, "rollout", "restart", "statefulset", "-n", c.namespace, "nats")
		c.settled(t)
	})
	l.end(t)
}
