package k8s_test

import (
	"encoding/json"
	"fmt"
	"os"
	"strings"
	"testing"
)

// dialFrom opens fresh connections from within a pod: by a container that joins it, so that it is the pod's own network and the policies that hold for it.
func (d *domain) dialFrom(t *testing.T, kind string, addresses ...string) map[string]bool {
	t.Helper()
	pod, container := d.pods(t, kind)[0], "dial-"+fmt.Sprint(len(list(t, d.namespace, "pods")))
	kubectl(t, append([]string{"debug", "-n", d.namespace, "pod/" + pod, "--image=mimimi.example/visitor:dev", "--image-pull-policy=IfNotPresent", "--profile=restricted", "--quiet",
		"-c", container, "--", "/visitor", "dial"}, addresses...)...)
	var opened map[string]bool
	eventually(t, "connections from "+kind, func() (bool, string) {
		out, err := command(t.Context(), "", "", kubectlArgs("logs", "-n", d.namespace, pod, "-c", container)...)
		if err != nil {
			return false, err.Error()
		}
		return json.Unmarshal([]byte(strings.TrimSpace(out)), &opened) == nil, out
	})
	return opened
}

// forbidden tries connections that policies must refuse, each beside one that they must allow.
func forbidden(t *testing.T, a, b *domain) {
	ip := func(d *domain, kind string) string {
		return kubectl(t, "get", "pod", "-n", d.namespace, d.pods(t, kind)[0], "-o", "jsonpath={.status.podIP}")
	}
	service := func(d *domain, name, port string) string { return name + "." + d.namespace + ".svc:" + port }
	bus, provider, hub := service(a, "nats", "4222"), ip(a, "provider"), ip(a, "hub")
	allow, deny := true, false
	rows := map[string]map[string]bool{
		"hub": {bus: allow, provider + ":8443": deny, provider + ":8445": deny, provider + ":9090": deny, service(a, "account", "443"): deny, service(b, "nats", "4222"): deny,
			ip(a, "nats") + ":8222": deny},
		"kpstore":  {bus: allow, hub + ":9090": deny, service(b, "federation", "443"): deny},
		"fanout":   {bus: allow, hub + ":9090": deny, service(b, "federation", "443"): deny},
		"provider": {bus: allow, hub + ":9090": deny, service(b, "federation", "443"): allow, service(b, "account", "443"): deny, service(b, "nats", "4222"): deny},
		"nats":     {hub + ":9090": deny, service(b, "nats", "4222"): deny, service(a, "account", "443"): deny},
	}
	outside := os.Getenv("OUTSIDE")
	if outside == "" {
		t.Log("nothing stands for the Internet: set OUTSIDE to an address that provider pods reach")
	}
	for kind, want := range rows {
		if outside != "" {
			want[outside] = kind == "provider"
		}
		check(t, kind, want, a.dialFrom(t, kind, keys(want)...))
	}
	want := map[string]bool{service(a, "account", "443"): allow, service(a, "anonymous", "443"): allow, bus: deny, ip(a, "nats") + ":4222": deny, ip(a, "nats") + ":6222": deny,
		ip(a, "nats") + ":8222": deny, hub + ":9090": deny, provider + ":9090": deny}
	var opened map[string]bool
	out := kubectl(t, append([]string{"exec", "-n", visitors, "visitor", "--", "/visitor", "dial"}, keys(want)...)...)
	if err := json.Unmarshal([]byte(strings.TrimSpace(out)), &opened); err != nil {
		t.Fatal(err)
	}
	check(t, "somebody else", want, opened)
}

// check compares what opened with what may.
func check(t *testing.T, from string, want, opened map[string]bool) {
	t.Helper()
	allowed := 0
	for address, ok := range want {
		if opened[address] != ok {
			t.Errorf("a connection from %s to %s: opened %v, want %v", from, address, opened[address], ok)
		}
		if ok {
			allowed++
		}
	}
	if !t.Failed() {
		figure(t, "from %s: %d connections refused, %d allowed, as the policies say", from, len(want)-allowed, allowed)
	}
}

func keys(m map[string]bool) (all []string) {
	for k := range m {
		all = append(all, k)
	}
	return all
}
