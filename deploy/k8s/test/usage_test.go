package k8s_test

import (
	"fmt"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"
)

// steadyTime is how long the use of processors is measured.
const steadyTime = 30 * time.Second

// usage matches a container's processor time and memory as the kubelet tells them.
var usage = regexp.MustCompile(`(?m)^container_(cpu_usage_seconds_total|memory_working_set_bytes)\{container="([^"]*)",namespace="([^"]*)",pod="([^"]*)"\} ([0-9.e+]+)`)

// container is one container of one pod.
type container struct{ namespace, pod, name string }

// used returns the processor seconds and bytes of memory of each container of some domains' pods.
func used(t *testing.T, domains ...*domain) (seconds, bytes map[container]float64) {
	t.Helper()
	seconds, bytes = make(map[container]float64), make(map[container]float64)
	nodes := strings.Fields(kubectl(t, "get", "nodes", "-o", "jsonpath={.items[*].metadata.name}"))
	for _, n := range nodes {
		for _, m := range usage.FindAllStringSubmatch(kubectl(t, "get", "--raw", "/api/v1/nodes/"+n+"/proxy/metrics/resource"), -1) {
			if !slices.ContainsFunc(domains, func(d *domain) bool { return d.namespace == m[3] }) {
				continue
			}
			v, err := strconv.ParseFloat(m[5], 64)
			if err != nil {
				t.Fatal(err)
			}
			of := seconds
			if m[1] != "cpu_usage_seconds_total" {
				of = bytes
			}
			of[container{m[3], m[4], m[2]}] = v
		}
	}
	return seconds, bytes
}

// measure notes what a steady load takes of each service, over both domains.
func measure(t *testing.T, l *load, domains ...*domain) {
	t.Helper()
	before, _ := used(t, domains...)
	from, _ := l.now(t)
	time.Sleep(steadyTime) // a measurement: nothing is waited for
	after, memory := used(t, domains...)
	to, _ := l.now(t)
	n := float64(to.Received - from.Received)
	if n == 0 {
		t.Fatal("no message went through in a steady load")
	}
	var parts []string
	for _, kind := range append(slices.Clone(services), "nats") {
		var spent, held float64
		pods := 0
		for c, now := range after { // a pod that a rolling update has left, or begun, meanwhile says nothing of a steady load
			if then, ok := before[c]; ok && c.name == kind {
				spent, held, pods = spent+now-then, held+memory[c], pods+1
			}
		}
		if pods == 0 || spent <= 0 {
			t.Fatalf("the kubelet counts no processor time of %s", kind)
		}
		parts = append(parts, fmt.Sprintf("%s %.1f ms and %.0f MiB a pod", kind, spent/n*1000, held/float64(pods)/(1<<20)))
	}
	figure(t, "%.0f messages a second from one domain to the other take of a processor each, over both: %s", n/steadyTime.Seconds(), strings.Join(parts, ", "))
}
