package k8s_test

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"strings"
	"testing"
	"time"
)

// visitors is the namespace of the pod that plays the users: outside of the domains', under no policy of theirs.
const visitors = "mimimi-visitors"

// visitorPod reaches the listeners by their Services, under the host names that clients use.
const visitorPod = `
apiVersion: v1
kind: Pod
metadata: {name: %s, namespace: mimimi-visitors}
spec:
  restartPolicy: Never
  automountServiceAccountToken: false
  terminationGracePeriodSeconds: 1
  securityContext: {runAsNonRoot: true, runAsUser: 65532, fsGroup: 65532, seccompProfile: {type: RuntimeDefault}}
  hostAliases: %s
  containers:
  - name: visitor
    image: mimimi.example/visitor:dev
    imagePullPolicy: IfNotPresent
    args: %s
    securityContext: {allowPrivilegeEscalation: false, readOnlyRootFilesystem: true, capabilities: {drop: [ALL]}}
    volumeMounts: [{name: tmp, mountPath: /tmp}, {name: domains, mountPath: /domains}]
  volumes:
  - {name: tmp, emptyDir: {}}
  - {name: domains, configMap: {name: domains}}
`

// startVisitor makes a pod that runs the visitor, which knows some domains, in place of one of the same name.
func startVisitor(t *testing.T, name string, args []string, domains ...*domain) {
	t.Helper()
	var aliases []map[string]any
	files := []string{"create", "configmap", "domains", "-n", visitors, "--dry-run=client", "-o", "json"}
	for _, d := range domains {
		for _, s := range []string{"account", "anonymous"} {
			ip := kubectl(t, "get", "service", "-n", d.namespace, s, "-o", "jsonpath={.spec.clusterIP}")
			aliases = append(aliases, map[string]any{"ip": ip, "hostnames": []string{s + "." + d.name}})
		}
		files = append(files, "--from-file="+d.namespace+".json="+d.dir+"/client.json")
	}
	hosts, err1 := json.Marshal(aliases)
	words, err2 := json.Marshal(args)
	if err := errors.Join(err1, err2); err != nil {
		t.Fatal(err)
	}
	kubectl(t, "delete", "pod", "-n", visitors, name, "--ignore-not-found")
	apply(t, kubectl(t, files...))
	apply(t, fmt.Sprintf(visitorPod, name, hosts, words))
	kubectl(t, "wait", "-n", visitors, "pod/"+name, "--for=condition=Ready", "--timeout=60s")
}

// report is what the visitor prints each second.
type report struct {
	Sent, Received, Doubled, Disorder int
	Median                            int `json:"median_ms"`
	Most                              int `json:"most_ms"`
	Silence                           int `json:"silence_ms"`
	Done                              bool
}

// load is a running load. It is a pod of its own: no connection to it has to last.
type load struct{ pod string }

var loads int // for names that nobody has had

// startLoad lets pairs of people on two domains write to each other, and returns once messages go through.
func startLoad(t *testing.T, a, b *domain, pairs int, every time.Duration) *load {
	t.Helper()
	loads++
	l := &load{pod: fmt.Sprintf("load-%d", loads)}
	startVisitor(t, l.pod, []string{
		"load", "-a", "/domains/" + a.namespace + ".json", "-b", "/domains/" + b.namespace + ".json",
		"-dir", "/tmp/load", "-guest", fmt.Sprintf("-%d-%d", time.Now().Unix(), loads), "-pairs", fmt.Sprint(pairs), "-every", every.String(),
	}, a, b)
	t.Cleanup(func() {
		if t.Failed() {
			out, err := command(context.Background(), "", "", kubectlArgs("logs", "-n", visitors, l.pod, "--tail=200")...)
			t.Logf("the visitor said: %v\n%s", err, out)
		}
	})
	l.through(t, 1)
	return l
}

// now is the last report, and whether the load has ended and how.
func (l *load) now(t *testing.T) (r report, phase string) {
	t.Helper()
	phase = kubectl(t, "get", "pod", "-n", visitors, l.pod, "-o", "jsonpath={.status.phase}")
	for line := range strings.Lines(kubectl(t, "logs", "-n", visitors, l.pod, "--tail=30")) {
		var n report
		if json.Unmarshal([]byte(line), &n) == nil {
			r = n
		}
	}
	return r, phase
}

// tell says a word to the load.
func (l *load) tell(t *testing.T, word string) {
	t.Helper()
	kubectl(t, "exec", "-n", visitors, l.pod, "--", "/visitor", "tell", word)
}

// through waits until n messages have been read in all.
func (l *load) through(t *testing.T, n int) (r report) {
	t.Helper()
	eventually(t, "messages to go through", func() (bool, string) {
		var phase string
		if r, phase = l.now(t); phase != "Running" {
			t.Fatalf("the load ended by itself: %s", phase)
		}
		return r.Received >= n, fmt.Sprintf("%d of %d sent were read, want %d", r.Received, r.Sent, n)
	})
	return r
}

// during does something to the cluster, waits until it has recovered and as much as was written before has been read, and notes what it cost the users.
func (l *load) during(t *testing.T, what string, do func()) {
	t.Helper()
	l.tell(t, "begin")
	before, _ := l.now(t)
	begin := time.Now()
	do()
	took := time.Since(begin)
	after, _ := l.now(t)
	r := l.through(t, after.Sent)
	figure(t, "%s: %.0f s, %d messages meanwhile, from writing to reading %d ms (median), %.1f s (most); %.1f s in which nobody read anything", what, took.Seconds(), r.Received-before.Received,
		r.Median, float64(r.Most)/1000, float64(r.Silence)/1000)
}

// end stops the load and fails unless every message was read once.
func (l *load) end(t *testing.T) {
	t.Helper()
	l.tell(t, "stop")
	var r report
	var phase string
	eventually(t, "the load to end", func() (bool, string) {
		r, phase = l.now(t)
		return phase != "Running", fmt.Sprintf("%d of %d sent were read", r.Received, r.Sent)
	})
	figure(t, "load: %d messages sent, %d read, %d lost, %d shown twice, %d out of order", r.Sent, r.Received, r.Sent-r.Received, r.Doubled, r.Disorder)
	if phase != "Succeeded" || !r.Done || r.Sent != r.Received || r.Doubled+r.Disorder > 0 || r.Sent < 20 {
		t.Errorf("something was lost, doubled or out of order: %s, %+v", phase, r)
	}
}
