package k8s_test

import (
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"testing"
)

// services are ours; each has a Deployment.
var services = []string{"hub", "kpstore", "fanout", "provider"}

// variants are what is rendered: the overlays alone, and with each component.
var variants = []struct {
	name, overlay string
	components    []string
}{
	{"dev", "dev", nil}, {"prod", "prod", nil}, {"prod with small", "prod", []string{"small"}}, {"prod with keda", "prod", []string{"keda"}}, {"prod with ingress", "prod", []string{"ingress"}},
}

// render renders a variant.
func render(t *testing.T, overlay string, components []string) string {
	t.Helper()
	k8s := filepath.Join(repository(), "deploy", "k8s")
	if len(components) == 0 {
		return kubectl(t, "kustomize", filepath.Join(k8s, "overlays", overlay))
	}
	dir := t.TempDir()
	relative := func(parts ...string) string {
		r, err := filepath.Rel(dir, filepath.Join(append([]string{k8s}, parts...)...))
		if err != nil {
			t.Fatal(err)
		}
		return r
	}
	text := "namespace: mimimi\nresources: [" + relative("overlays", overlay) + "]\ncomponents:\n"
	for _, c := range components {
		text += "  - " + relative("components", c) + "\n"
	}
	if err := os.WriteFile(filepath.Join(dir, "kustomization.yaml"), []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	return kubectl(t, "kustomize", dir)
}

// TestRender renders everything and holds it to our own rules, the linter's, and the services' own check of their configuration.
func TestRender(t *testing.T) {
	for _, v := range variants {
		t.Run(v.name, func(t *testing.T) {
			text := render(t, v.overlay, v.components)
			objects := parse(t, text)
			if len(objects) < 35 {
				t.Fatalf("only %d objects", len(objects))
			}
			checkWorkloads(t, objects)
			checkConfigs(t, objects)
			lint(t, text)
			if !t.Failed() {
				figure(t, "%s: %d objects rendered, checked, and linted by kube-score", v.name, len(objects))
			}
		})
	}
}

// workloads are what has pods.
func workloads(objects []object) []object {
	return slices.DeleteFunc(slices.Clone(objects), func(o object) bool { return !slices.Contains([]string{"Deployment", "StatefulSet", "Job"}, o.kind()) })
}

// checkWorkloads holds pods to what the linter does not look at.
func checkWorkloads(t *testing.T, objects []object) {
	t.Helper()
	have := make(map[string]bool)
	for _, o := range objects {
		have[o.kind()+" "+o.name()] = true
		if o.kind() == "Secret" {
			t.Errorf("an overlay has a secret in it: %s", o.name())
		}
		if o.kind() == "ServiceAccount" && o.at("automountServiceAccountToken") != false {
			t.Errorf("the service account %s gives out a token", o.name())
		}
	}
	for _, want := range append([]string{"NetworkPolicy default-deny", "PodDisruptionBudget nats", "Deployment collector", "StatefulSet nats", "Job stream-init"}, services...) {
		if !strings.Contains(want, " ") {
			want = "PodDisruptionBudget " + want
		}
		if !have[want] {
			t.Errorf("%s is missing", want)
		}
	}
	for _, o := range workloads(objects) {
		pod := object{"spec": o.at("spec", "template", "spec")}
		if pod.at("spec", "automountServiceAccountToken") != false || pod.text("spec", "serviceAccountName") != o.name() {
			t.Errorf("%s has a token or no account of its own", o.name())
		}
		if pod.at("spec", "securityContext", "runAsNonRoot") != true || pod.text("spec", "securityContext", "seccompProfile", "type") != "RuntimeDefault" {
			t.Errorf("%s may run as root or without seccomp", o.name())
		}
		grace, _ := pod.at("spec", "terminationGracePeriodSeconds").(float64)
		if o.kind() != "Job" && grace < 65 && o.name() != "collector" {
			t.Errorf("%s is killed after %v s: the pause before the signal, a call and the drains take 65", o.name(), grace)
		}
		checkContainer(t, o.name(), object{"c": pod.at("spec", "containers", 0)})
	}
}

// checkContainer compares GOMEMLIMIT with the memory limit, and looks for a digest or a fixed tag.
func checkContainer(t *testing.T, name string, o object) {
	t.Helper()
	env := make(map[string]string)
	list, _ := o.at("c", "env").([]any)
	for i := range list {
		env[o.text("c", "env", i, "name")] = o.text("c", "env", i, "value")
	}
	limit, got := bytesOf(t, o.text("c", "resources", "limits", "memory")), bytesOf(t, strings.TrimSuffix(env["GOMEMLIMIT"], "B"))
	if share := got * 100 / limit; share < 85 || share > 91 {
		t.Errorf("%s: GOMEMLIMIT is %d%% of the memory limit, want 90", name, share)
	}
	if _, ok := env["GOMAXPROCS"]; !ok {
		t.Errorf("%s: GOMAXPROCS is not set", name)
	}
	if image := o.text("c", "image"); !strings.Contains(image, ":") || strings.HasSuffix(image, ":latest") {
		t.Errorf("%s: the image %s has no fixed tag", name, image)
	}
}

// bytesOf reads 512Mi and 4Gi.
func bytesOf(t *testing.T, quantity string) int {
	t.Helper()
	for suffix, unit := range map[string]int{"Mi": 1 << 20, "Gi": 1 << 30} {
		if n, ok := strings.CutSuffix(quantity, suffix); ok {
			v, err := strconv.Atoi(n)
			if err != nil {
				t.Fatal(err)
			}
			return v * unit
		}
	}
	t.Fatalf("%q is no amount of memory that this test knows", quantity)
	return 0
}

// checkConfigs lets each service check its configuration.
func checkConfigs(t *testing.T, objects []object) {
	t.Helper()
	checked := 0
	for _, o := range objects {
		if o.kind() != "ConfigMap" {
			continue
		}
		for _, s := range services {
			config := o.text("data", s+".json")
			if config == "" {
				continue
			}
			path := filepath.Join(t.TempDir(), "config.json")
			if err := os.WriteFile(path, []byte(config), 0o600); err != nil {
				t.Fatal(err)
			}
			if _, err := command(t.Context(), "", "", program(t, s), "-config", path, "-check"); err != nil {
				t.Error(err)
			}
			checked++
		}
	}
	if checked != len(services) {
		t.Errorf("%d configurations were checked, want %d", checked, len(services))
	}
}

// lint runs kube-score; a warning is a failure too, but for those that an annotation waives, of which each must be explained here.
func lint(t *testing.T, text string) {
	t.Helper()
	waived := map[string]string{
		"container-image-pull-policy":      "tags never move, so a node need not ask for an image that it has",
		"horizontalpodautoscaler-replicas": "one replica is enough for development",
	}
	for _, o := range parse(t, text) {
		for _, w := range strings.Split(o.text("metadata", "annotations", "kube-score/ignore"), ",") {
			if w != "" && waived[w] == "" {
				t.Errorf("%s waives %q without a reason in this test", o.name(), w)
			}
		}
	}
	out, err := command(t.Context(), repository(), text, "go", "run", kubeScore, "score", "--output-format", "ci", "-")
	ok, bad := 0, []string{}
	for line := range strings.Lines(out) {
		switch {
		case strings.HasPrefix(line, "[OK]"):
			ok++
		case strings.HasPrefix(line, "[CRITICAL]"), strings.HasPrefix(line, "[WARNING]"):
			bad = append(bad, line)
		}
	}
	if err != nil || len(bad) > 0 || ok < 30 {
		t.Errorf("kube-score: %d checks are good, %v\n%s", ok, err, strings.Join(bad, ""))
	}
}

// TestSchema has the cluster's API server check every object of every variant strictly, without making any.
func TestSchema(t *testing.T) {
	if os.Getenv("KUBECONFIG") == "" {
		t.Skip("no cluster: set KUBECONFIG, or run deploy/k8s/test/run as root where k8s-node is")
	}
	const namespace = "mimimi" // the overlays' own: it has to be there for its objects to be looked at
	apply(t, fmt.Sprintf("apiVersion: v1\nkind: Namespace\nmetadata: {name: %s}\n", namespace))
	defer kubectl(t, "delete", "namespace", namespace, "--wait=false")
	for _, v := range variants {
		var known []string
		for _, doc := range strings.Split(render(t, v.overlay, v.components), "\n---\n") {
			if strings.Contains(doc, "apiVersion: keda.sh/") {
				t.Logf("%s: the ScaledObject's schema is KEDA's, which this cluster does not have", v.name)
				continue
			}
			known = append(known, doc)
		}
		out, err := command(t.Context(), "", strings.Join(known, "\n---\n"), kubectlArgs("apply", "--server-side", "--dry-run=server", "--validate=strict", "--force-conflicts", "-f", "-")...)
		if err != nil {
			t.Errorf("%s: %v", v.name, err)
			continue
		}
		figure(t, "%s: the API server takes all %d objects", v.name, strings.Count(out, "\n"))
	}
}
