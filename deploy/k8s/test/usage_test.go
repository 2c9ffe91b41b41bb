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
var usage = regexp.MustCompile(`(?m)^container_(cpu_usage_seconds_total|memory_working_set_bytes)\{container="([^"]*)",namespace="([^"]*)",pod="[^"]*"\} ([0-9.e+]+)`)

// used sums processor seconds and bytes of memory by container name, over some domains' pods.
func used(t *testing.T, domains ...*domain) (seconds, bytes map[string]float64) {
	t.Helper()
	seconds, bytes = make(map[string]float64), make(map[string]float64)
	nodes := strings.Fields(kubectl(t, "get", "nodes", "-o", "jsonpath={.items[*].metadata.name}"))
	for _, n := range nodes {
		for _, m := range usage.FindAllStringSubmatch(kubectl(t, "get", "--raw", "/api/v1/nodes/"+n+"/proxy/metrics/resource"), -1) {
			if !slices.ContainsFunc(domains, func(d *domain) bool { return d.namespace == m[3] }) {
				continue
			}
			v, err := strconv.ParseFloat(m[4], 64)
			if err != nil {
				t.Fatal(err)
			}
			if m[1] == "cpu_usage_seconds_total" {
				seconds[m[2]] += v
			} else {
				bytes[m[2]] += v
			}
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
		pods := 0
		for _, d := range domains {
			pods += len(d.pods(t, kind))
		}
		parts = append(parts, fmt.Sprintf("%s %.1f ms and %.0f MiB a pod", kind, max(0, after[kind]-before[kind])/n*1000, memory[kind]/float64(pods)/(1<<20)))
	}
	figure(t, "%.0f messages a second from one domain to the other take of a processor each, over both: %s", n/steadyTime.Seconds(), strings.Join(parts, ", "))
}
