// Package layout holds the laws about the tree itself: which package may import which, and which names no package may have.
package layout

import (
	"os/exec"
	"path"
	"slices"
	"strings"
	"testing"
)

const module = "mimimi.example/"

// imports returns every package of the module with the non-test packages that it depends on, directly or not.
func imports(t *testing.T) map[string][]string {
	t.Helper()
	cmd := exec.Command("go", "list", "-f", "{{.ImportPath}} {{join .Deps \" \"}}", module+"...")
	cmd.Dir = "../.."
	out, err := cmd.Output()
	if err != nil {
		t.Fatalf("go list: %v", err)
	}
	deps := make(map[string][]string)
	for line := range strings.Lines(string(out)) {
		f := strings.Fields(line)
		deps[strings.TrimPrefix(f[0], module)] = f[1:]
	}
	if len(deps) < 10 {
		t.Fatalf("go list names only %d packages", len(deps))
	}
	return deps
}

// TestDependencyLaw: cmd, services → pkg/client, pkg/bus → pkg/mimimi → pkg/mls, and no service imports another.
func TestDependencyLaw(t *testing.T) {
	allowed := map[string][]string{ // of the module's own packages; a missing entry means "none"
		"pkg/mls":       {},
		"pkg/redact":    {},
		"pkg/problem":   {},
		"pkg/telemetry": {},
		"pkg/oblivious": {"pkg/problem"},
		"pkg/mimimi":    {"pkg/mls", "pkg/redact"},
		"pkg/bus":       {"pkg/problem", "pkg/mimimi", "pkg/mls", "pkg/redact", "pkg/telemetry"},
		"pkg/service":   {"pkg/bus", "pkg/problem", "pkg/mimimi", "pkg/mls", "pkg/redact", "pkg/telemetry"},
		"pkg/client":    {"pkg/mimimi", "pkg/mls", "pkg/redact", "pkg/problem", "pkg/oblivious", "api/mimimi/v1", "api/mimimi/v1/mimimiv1connect"},
	}
	for pkg, deps := range imports(t) {
		for _, d := range deps {
			own, ok := strings.CutPrefix(d, module)
			if !ok {
				continue
			}
			if list, ruled := allowed[pkg]; ruled && !slices.Contains(list, own) {
				t.Errorf("%s must not depend on %s", pkg, own)
			}
			if service(pkg) != "" && service(own) != "" && service(pkg) != service(own) {
				t.Errorf("%s must not depend on another service's %s", pkg, own)
			}
			if service(pkg) != "" && (own == "pkg/client" || strings.HasPrefix(own, "cmd/") || strings.HasPrefix(own, "test/")) {
				t.Errorf("the service %s must not depend on %s", pkg, own)
			}
			if strings.HasPrefix(pkg, "pkg/") && !strings.HasPrefix(own, "pkg/") && !strings.HasPrefix(own, "api/") {
				t.Errorf("%s must not depend on %s", pkg, own)
			}
		}
	}
}

// service returns the service that a package belongs to, "" if none.
func service(pkg string) string {
	rest, ok := strings.CutPrefix(pkg, "services/")
	if !ok {
		return ""
	}
	name, _, _ := strings.Cut(rest, "/")
	return name
}

// TestMLSIsPure: pkg/mls needs nothing but the standard library, x/crypto and circl, and never the network or a log.
func TestMLSIsPure(t *testing.T) {
	forbidden := []string{"net", "net/http", "log", "log/slog", "os/exec"}
	for _, d := range imports(t)["pkg/mls"] {
		if slices.Contains(forbidden, d) {
			t.Errorf("pkg/mls must not depend on %s", d)
		}
		first, _, _ := strings.Cut(d, "/")
		if strings.Contains(first, ".") && !strings.HasPrefix(d, "golang.org/x/") && !strings.HasPrefix(d, "github.com/cloudflare/circl") && !strings.HasPrefix(d, "vendor/") {
			t.Errorf("pkg/mls must not depend on %s", d)
		}
	}
}

// TestNames: a name says what it holds.
func TestNames(t *testing.T) {
	forbidden := []string{"util", "utils", "common", "helpers", "types", "models", "constants", "interfaces", "base", "manager"}
	for pkg := range imports(t) {
		if slices.Contains(forbidden, path.Base(pkg)) {
			t.Errorf("package %s has a name that says nothing", pkg)
		}
	}
}
