package layout

import (
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
)

// named matches a package, or a test, in backticks.
var named = regexp.MustCompile("`((?:pkg|services|test|cmd)/[a-z0-9/]+)`|`(Test[A-Za-z0-9_]+)`")

// TestDraftCoverageNamesTests: every test that docs/draft-coverage.md names exists in the package that it names.
func TestDraftCoverageNamesTests(t *testing.T) {
	doc, err := os.ReadFile("../../docs/draft-coverage.md")
	if err != nil {
		t.Fatal(err)
	}
	rows := 0
	for line := range strings.Lines(string(doc)) {
		if !strings.HasPrefix(line, "|") || strings.HasPrefix(line, "|---") || strings.HasPrefix(line, "| requirement") {
			continue
		}
		rows++
		if !strings.Contains(line, "not yet") && !strings.Contains(line, "`Test") {
			t.Errorf("a requirement has neither a test nor \"not yet\": %s", line)
		}
		pkg := ""
		for _, m := range named.FindAllStringSubmatch(line, -1) {
			if m[1] != "" {
				pkg = m[1]
			} else if !hasTest(t, pkg, m[2]) {
				t.Errorf("%s has no %s", pkg, m[2])
			}
		}
	}
	if rows < 20 {
		t.Errorf("only %d requirements found", rows)
	}
}

// hasTest says whether a package has a test function of a name.
func hasTest(t *testing.T, pkg, name string) bool {
	t.Helper()
	files, err := filepath.Glob(filepath.Join("../..", pkg, "*_test.go"))
	if err != nil {
		t.Fatal(err)
	}
	for _, f := range files {
		b, err := os.ReadFile(f)
		if err != nil {
			t.Fatal(err)
		}
		if strings.Contains(string(b), "func "+name+"(") {
			return true
		}
	}
	return false
}

// link matches a relative link of Markdown.
var link = regexp.MustCompile(`\]\(([^)#:]+)(#[^)]*)?\)`)

// TestLinks: every relative link of the documents leads somewhere.
func TestLinks(t *testing.T) {
	var docs []string
	for _, pattern := range []string{"../../*.md", "../../docs/*.md", "../../docs/*/*.md"} {
		m, err := filepath.Glob(pattern)
		if err != nil {
			t.Fatal(err)
		}
		docs = append(docs, m...)
	}
	if len(docs) < 8 {
		t.Fatalf("only %d documents found", len(docs))
	}
	for _, doc := range docs {
		b, err := os.ReadFile(doc)
		if err != nil {
			t.Fatal(err)
		}
		for _, m := range link.FindAllStringSubmatch(string(b), -1) {
			if _, err := os.Stat(filepath.Join(filepath.Dir(doc), m[1])); err != nil {
				t.Errorf("%s: the link to %s leads nowhere", doc, m[1])
			}
		}
	}
}
