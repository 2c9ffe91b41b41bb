// Package k8s_test renders and checks deploy/k8s, and proves on a cluster that what it deploys loses nothing. run starts it with what it needs:
//
//	KUBECONFIG  the cluster; without it, what needs one is skipped
//	KUBECTL     the command, "kubectl" unless set; several words are a command with arguments
//	REPOSITORY  the repository, "../../.." unless set
//	OUTSIDE     host:port that stands for the Internet: the provider may go there, nobody else
package k8s_test

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"sigs.k8s.io/yaml"
)

const (
	kubeScore = "github.com/zegl/kube-score/cmd/kube-score@v1.20.0"
	// patience is how long anything may take that is only slow unless it is stuck.
	patience = 5 * time.Minute
	poll     = 500 * time.Millisecond
)

func repository() string {
	root := os.Getenv("REPOSITORY")
	if root == "" {
		root = "../../.."
	}
	abs, err := filepath.Abs(root)
	if err != nil {
		panic(err) // the working directory is gone
	}
	return abs
}

// command runs a program to its end; its standard error is in the error.
func command(ctx context.Context, dir, stdin string, args ...string) (string, error) {
	c := exec.CommandContext(ctx, args[0], args[1:]...)
	var out, errs bytes.Buffer
	c.Dir, c.Stdin, c.Stdout, c.Stderr = dir, strings.NewReader(stdin), &out, &errs
	if err := c.Run(); err != nil {
		return out.String(), fmt.Errorf("%s: %w\n%s%s", strings.Join(args, " "), err, out.String(), errs.String())
	}
	return out.String(), nil
}

func kubectlArgs(args ...string) []string {
	k := strings.Fields(os.Getenv("KUBECTL"))
	if len(k) == 0 {
		k = []string{"kubectl"}
	}
	return append(k, args...)
}

// kubectl runs it and fails the test if it fails.
func kubectl(t *testing.T, args ...string) string {
	t.Helper()
	out, err := command(t.Context(), "", "", kubectlArgs(args...)...)
	if err != nil {
		t.Fatal(err)
	}
	return out
}

// apply gives objects to the cluster, which checks them strictly.
func apply(t *testing.T, objects string) {
	t.Helper()
	if _, err := command(t.Context(), "", objects, kubectlArgs("apply", "--server-side", "--validate=strict", "-f", "-")...); err != nil {
		t.Fatal(err)
	}
}

// object is a Kubernetes object.
type object map[string]any

// at follows keys, and numbers in lists, to a value; nil if there is none.
func (o object) at(path ...any) any {
	var v any = map[string]any(o)
	for _, p := range path {
		switch p := p.(type) {
		case string:
			m, ok := v.(map[string]any)
			if !ok {
				return nil
			}
			v = m[p]
		case int:
			l, ok := v.([]any)
			if !ok || p >= len(l) {
				return nil
			}
			v = l[p]
		}
	}
	return v
}

func (o object) text(path ...any) string {
	s, _ := o.at(path...).(string)
	return s
}

func (o object) kind() string { return o.text("kind") }
func (o object) name() string { return o.text("metadata", "name") }

// parse reads a stream of YAML documents.
func parse(t *testing.T, stream string) []object {
	t.Helper()
	var all []object
	for _, doc := range strings.Split("\n"+stream, "\n---\n") {
		o := object{}
		if err := yaml.UnmarshalStrict([]byte(doc), &o); err != nil {
			t.Fatalf("not a YAML document: %v", err)
		}
		if len(o) > 0 {
			all = append(all, o)
		}
	}
	return all
}

// list reads objects of a kind from the cluster.
func list(t *testing.T, namespace, kind string, more ...string) []object {
	t.Helper()
	var l struct{ Items []object }
	if err := json.Unmarshal([]byte(kubectl(t, append([]string{"get", "-n", namespace, kind, "-o", "json"}, more...)...)), &l); err != nil {
		t.Fatal(err)
	}
	return l.Items
}

// eventually waits until cond holds; why says what it still waits for.
func eventually(t *testing.T, what string, cond func() (ok bool, why string)) {
	t.Helper()
	for deadline := time.Now().Add(patience); ; time.Sleep(poll) {
		ok, why := cond()
		if ok {
			return
		}
		if time.Now().After(deadline) {
			t.Fatalf("waited in vain for %s: %s", what, why)
		}
	}
}

// figures are printed at the end.
var figures struct {
	sync.Mutex
	lines []string
}

// figure notes what was done, with numbers.
func figure(t *testing.T, format string, args ...any) {
	t.Helper()
	line := fmt.Sprintf(format, args...)
	t.Log(line)
	figures.Lock()
	defer figures.Unlock()
	figures.lines = append(figures.lines, line)
}

func TestMain(m *testing.M) {
	code := m.Run()
	if programs != "" {
		if err := os.RemoveAll(programs); err != nil {
			fmt.Fprintln(os.Stderr, err)
			code = 1
		}
	}
	if len(figures.lines) > 0 {
		fmt.Println("What was done:")
		for _, l := range figures.lines {
			fmt.Println("  " + l)
		}
	}
	os.Exit(code)
}

// programs is the folder of built, "" if nothing was; TestMain removes it.
var programs string

// built are our own programs, built once.
var built = sync.OnceValues(func() (string, error) {
	dir, err := os.MkdirTemp("", "mimimi-k8s-")
	if err != nil {
		return "", err
	}
	programs = dir
	_, err = command(context.Background(), repository(), "", "go", "build", "-o", dir+"/", "./services/hub/cmd/hub", "./services/kpstore/cmd/kpstore", "./services/fanout/cmd/fanout",
		"./services/provider/cmd/provider", "./cmd/mimimi")
	return dir, err
})

func program(t *testing.T, name string) string {
	t.Helper()
	dir, err := built()
	if err != nil {
		t.Fatal(err)
	}
	return filepath.Join(dir, name)
}
