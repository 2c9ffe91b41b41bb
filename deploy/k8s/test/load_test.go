package k8s_test

import (
	"bufio"
	"encoding/json"
	"fmt"
	"io"
	"os"
	"os/exec"
	"sync"
	"testing"
	"time"
)

// visitors is the namespace of the pod that plays the users: outside of the domains', under no policy of theirs.
const visitors = "mimimi-visitors"

// visitorPod reaches the listeners by their Services, under the host names that clients use.
const visitorPod = `
apiVersion: v1
kind: Pod
metadata: {name: visitor, namespace: mimimi-visitors}
spec:
  automountServiceAccountToken: false
  terminationGracePeriodSeconds: 1
  securityContext: {runAsNonRoot: true, runAsUser: 65532, fsGroup: 65532, seccompProfile: {type: RuntimeDefault}}
  hostAliases: %s
  containers:
  - name: visitor
    image: mimimi.example/visitor:dev
    imagePullPolicy: IfNotPresent
    args: [wait]
    securityContext: {allowPrivilegeEscalation: false, readOnlyRootFilesystem: true, capabilities: {drop: [ALL]}}
    volumeMounts: [{name: tmp, mountPath: /tmp}, {name: domains, mountPath: /domains}]
  volumes:
  - {name: tmp, emptyDir: {}}
  - {name: domains, configMap: {name: domains}}
`

// startVisitor makes the pod, which knows some domains, in place of one that knew others.
func startVisitor(t *testing.T, domains ...*domain) {
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
	names, err := json.Marshal(aliases)
	if err != nil {
		t.Fatal(err)
	}
	kubectl(t, "delete", "pod", "-n", visitors, "visitor", "--ignore-not-found")
	apply(t, kubectl(t, files...))
	apply(t, fmt.Sprintf(visitorPod, names))
	kubectl(t, "wait", "-n", visitors, "pod/visitor", "--for=condition=Ready", "--timeout=60s")
}

// report is what the visitor prints each second.
type report struct {
	Sent, Received, Doubled, Disorder int
	Median                            int `json:"median_ms"`
	Most                              int `json:"most_ms"`
	Silence                           int `json:"silence_ms"`
	Done                              bool
}

// load is a running load.
type load struct {
	stdin io.WriteCloser
	ended chan error

	mu     sync.Mutex
	latest report // guarded by mu
}

var loads int // for names that nobody has had

// startLoad lets pairs of people on two domains write to each other, and returns once messages go through.
func startLoad(t *testing.T, a, b *domain, pairs int, every time.Duration) *load {
	t.Helper()
	loads++
	name := fmt.Sprintf("-%d-%d", time.Now().Unix(), loads)
	args := kubectlArgs("exec", "-i", "-n", visitors, "visitor", "--", "/visitor", "load", "-a", "/domains/"+a.namespace+".json", "-b", "/domains/"+b.namespace+".json",
		"-dir", "/tmp/load"+name, "-guest", name, "-pairs", fmt.Sprint(pairs), "-every", every.String())
	c := exec.Command(args[0], args[1:]...)
	l := &load{ended: make(chan error, 1)}
	var err error
	if l.stdin, err = c.StdinPipe(); err != nil {
		t.Fatal(err)
	}
	out, err := c.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	c.Stderr = os.Stderr
	if err := c.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = c.Process.Kill() }) // it has ended unless the test failed
	var read sync.WaitGroup
	read.Go(func() {
		for in := bufio.NewScanner(out); in.Scan(); {
			var r report
			if json.Unmarshal(in.Bytes(), &r) == nil {
				l.mu.Lock()
				l.latest = r
				l.mu.Unlock()
			}
		}
	})
	go func() {
		read.Wait()
		l.ended <- c.Wait()
	}()
	l.through(t, 1)
	return l
}

func (l *load) now() report {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.latest
}

// through waits until n messages have been read in all.
func (l *load) through(t *testing.T, n int) {
	t.Helper()
	eventually(t, "messages to go through", func() (bool, string) {
		select {
		case err := <-l.ended:
			t.Fatalf("the load ended by itself: %v", err)
		default:
		}
		r := l.now()
		return r.Received >= n, fmt.Sprintf("%d of %d sent were read, want %d", r.Received, r.Sent, n)
	})
}

// during does something to the cluster, waits until it has recovered and all that was written before has been read, and notes what it cost the users.
func (l *load) during(t *testing.T, what string, do func()) {
	t.Helper()
	if _, err := io.WriteString(l.stdin, "\n"); err != nil {
		t.Fatal(err)
	}
	before, begin := l.now(), time.Now()
	do()
	took := time.Since(begin)
	l.through(t, l.now().Sent)
	r := l.now()
	figure(t, "%s: %.0f s, %d messages meanwhile, from writing to reading %d ms (median), %.1f s (most); %.1f s in which nobody read anything", what, took.Seconds(), r.Received-before.Received,
		r.Median, float64(r.Most)/1000, float64(r.Silence)/1000)
}

// end stops the load and fails unless every message was read once.
func (l *load) end(t *testing.T) {
	t.Helper()
	if err := l.stdin.Close(); err != nil {
		t.Fatal(err)
	}
	select {
	case err := <-l.ended:
		if err != nil {
			t.Errorf("load: %v", err)
		}
	case <-time.After(patience):
		t.Fatal("the load does not end")
	}
	r := l.now()
	figure(t, "load: %d messages sent, %d read, %d lost, %d shown twice, %d out of order", r.Sent, r.Received, r.Sent-r.Received, r.Doubled, r.Disorder)
	if !r.Done || r.Sent != r.Received || r.Doubled+r.Disorder > 0 || r.Sent < 20 {
		t.Errorf("something was lost, doubled or out of order: %+v", r)
	}
}
