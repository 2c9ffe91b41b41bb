package layout

import (
	"bytes"
	"flag"
	"fmt"
	"go/ast"
	"go/parser"
	"go/token"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"testing"
)

// update makes TestRFC9420Coverage write docs/rfc9420-coverage.md; make generate sets it.
var update = flag.Bool("update", false, "write the generated documents")

const (
	mustsFile    = "../../pkg/mls/testdata/musts.txt"
	coverageFile = "../../docs/rfc9420-coverage.md"
)

// demand is one line of musts.txt.
type demand struct {
	level, who, what string
	tests            []string // empty if there is a reason
	reason           string
}

// section is one section of RFC 9420 with its demands.
type section struct {
	title   string
	demands []demand
}

// readMusts reads pkg/mls/testdata/musts.txt.
func readMusts(t *testing.T) []section {
	t.Helper()
	b, err := os.ReadFile(mustsFile)
	if err != nil {
		t.Fatal(err)
	}
	var out []section
	for line := range strings.Lines(string(b)) {
		line = strings.TrimSpace(line)
		title, isSection := strings.CutPrefix(line, "§ ")
		fields := strings.Split(line, " | ")
		switch {
		case line == "" || strings.HasPrefix(line, "#"):
		case isSection:
			out = append(out, section{title: title})
		case len(fields) != 4 || len(out) == 0:
			t.Fatalf("not four fields below a section: %s", line)
		default:
			d := demand{level: fields[0], who: fields[1], what: fields[2]}
			if reason, ok := strings.CutPrefix(fields[3], "- "); ok {
				d.reason = reason
			} else {
				d.tests = strings.Split(fields[3], "; ")
			}
			last := &out[len(out)-1]
			last.demands = append(last.demands, d)
		}
	}
	return out
}

// TestRFC9420Coverage: each demand of RFC 9420 has tests that exist or a reason, each test of a section is named, and docs/rfc9420-coverage.md says
// what musts.txt says.
func TestRFC9420Coverage(t *testing.T) {
	sections := readMusts(t)
	packages := map[string]testPackage{}
	named := map[string]bool{}
	musts := 0
	for _, s := range sections {
		for _, d := range s.demands {
			if !slices.Contains([]string{"MUST", "SHOULD", "rule"}, d.level) || !slices.Contains([]string{"client", "server", "both", "application", "nobody"}, d.who) {
				t.Errorf("§%s: %s: unknown level or checker", s.title, d.what)
			}
			if d.level == "MUST" {
				musts++
			}
			if d.reason != "" && (d.who == "both" || d.who == "server") {
				t.Errorf("§%s: %s: a server can check it, so a test must", s.title, d.what)
			}
			for _, test := range d.tests {
				pkg, name := "pkg/mls", test
				if p, n, ok := strings.Cut(test, " "); ok && strings.Contains(p, "/") && !strings.HasPrefix(p, "Test") {
					pkg, name = p, n
				}
				if packages[pkg] == nil {
					packages[pkg] = readTests(t, pkg)
				}
				function, sub, _ := strings.Cut(name, "/")
				if !packages[pkg].has(function, sub) {
					t.Errorf("§%s: %s has no %s", s.title, pkg, name)
				}
				named[function] = true
			}
		}
	}
	if musts < 100 {
		t.Errorf("only %d MUSTs found", musts)
	}
	for name := range packages["pkg/mls"] {
		if strings.HasPrefix(name, "TestRFC9420_") && !named[name] {
			t.Errorf("musts.txt does not name %s", name)
		}
	}
	doc := coverage(sections)
	if *update {
		if err := os.WriteFile(coverageFile, doc, 0o644); err != nil {
			t.Fatal(err)
		}
	}
	if now, err := os.ReadFile(coverageFile); err != nil || !bytes.Equal(now, doc) {
		t.Error("docs/rfc9420-coverage.md is stale: run make generate")
	}
}

// coverage makes docs/rfc9420-coverage.md.
func coverage(sections []section) []byte {
	count := map[string]int{}
	for _, s := range sections {
		for _, d := range s.demands {
			count[d.level]++
			if d.reason != "" {
				count[d.level+" without"]++
			}
		}
	}
	var b bytes.Buffer
	fmt.Fprintf(&b, `# RFC 9420's demands and the tests that break them

Generated from [pkg/mls/testdata/musts.txt](../pkg/mls/testdata/musts.txt) by `+"`make generate`"+`; `+"`test/layout`"+` checks that it is fresh and that each named test exists. What each demand is, is told in our own words; the section says where RFC 9420 has it.

A test builds a message that is valid but for the one rule, and wants a member, the server that follows the group and the maker of the message to refuse it for that rule. Who can check a rule: the *client*, the *server*, *both* (by the group's public state), the *application* above the package, or *nobody* that runs. A *rule* is what makes something invalid where a MUST says that its validity be checked.

%d MUSTs, of which %d are nothing that this package can check, for the reason given; %d rules; %d SHOULDs.
`, count["MUST"], count["MUST without"], count["rule"], count["SHOULD"])
	for _, s := range sections {
		fmt.Fprintf(&b, "\n## %s\n\n| level | who | what | broken by |\n|---|---|---|---|\n", s.title)
		for _, d := range s.demands {
			by := d.reason
			if by == "" {
				by = "`" + strings.Join(d.tests, "`, `") + "`"
			}
			fmt.Fprintf(&b, "| %s | %s | %s | %s |\n", d.level, d.who, d.what, by)
		}
	}
	return b.Bytes()
}

// testPackage holds the declarations of a package's tests by name.
type testPackage map[string]ast.Node

func readTests(t *testing.T, pkg string) testPackage {
	t.Helper()
	files, err := filepath.Glob(filepath.Join("../..", pkg, "*_test.go"))
	if err != nil || len(files) == 0 {
		t.Fatalf("%s has no tests: %v", pkg, err)
	}
	all := testPackage{}
	for _, name := range files {
		file, err := parser.ParseFile(token.NewFileSet(), name, nil, parser.SkipObjectResolution)
		if err != nil {
			t.Fatal(err)
		}
		for _, decl := range file.Decls {
			switch d := decl.(type) {
			case *ast.FuncDecl:
				all[d.Name.Name] = d
			case *ast.GenDecl:
				for _, spec := range d.Specs {
					if v, ok := spec.(*ast.ValueSpec); ok {
						for _, n := range v.Names {
							all[n.Name] = v
						}
					}
				}
			}
		}
	}
	return all
}

var testName = regexp.MustCompile(`^(Test|Fuzz|Example)\w*$`)

// has says whether there is a test, and whether it, or what it uses of its package, names the subtest.
func (p testPackage) has(function, sub string) bool {
	if p[function] == nil || !testName.MatchString(function) {
		return false
	}
	return sub == "" || p.names(function, sub, map[string]bool{})
}

func (p testPackage) names(declared, sub string, seen map[string]bool) bool {
	if seen[declared] {
		return false
	}
	seen[declared] = true
	found := false
	ast.Inspect(p[declared], func(n ast.Node) bool {
		switch n := n.(type) {
		case *ast.BasicLit:
			if s, err := strconv.Unquote(n.Value); err == nil && n.Kind == token.STRING && s == sub {
				found = true
			}
		case *ast.Ident:
			found = found || p[n.Name] != nil && p.names(n.Name, sub, seen)
		}
		return !found
	})
	return found
}
