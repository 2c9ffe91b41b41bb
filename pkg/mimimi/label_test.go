package mimimi

import (
	"go/ast"
	"go/parser"
	"go/token"
	"os"
	"strconv"
	"strings"
	"testing"
)

// sources parses the package's files but for its tests.
func sources(t *testing.T) map[string]*ast.File {
	t.Helper()
	entries, err := os.ReadDir(".")
	wantOK(t, err)
	files := map[string]*ast.File{}
	for _, e := range entries {
		if n := e.Name(); strings.HasSuffix(n, ".go") && !strings.HasSuffix(n, "_test.go") {
			files[n] = must(parser.ParseFile(token.NewFileSet(), n, nil, 0))
		}
	}
	return files
}

// table reads the labels out of label.go.
func table(t *testing.T, f *ast.File) map[string]string {
	t.Helper()
	labels := map[string]string{}
	for _, decl := range f.Decls {
		g, ok := decl.(*ast.GenDecl)
		if !ok || g.Tok != token.CONST {
			continue
		}
		for _, spec := range g.Specs {
			v := spec.(*ast.ValueSpec)
			if typ, ok := v.Type.(*ast.Ident); !ok || typ.Name != "label" {
				t.Errorf("%s has no type label", v.Names[0].Name)
			}
			labels[v.Names[0].Name] = must(strconv.Unquote(v.Values[0].(*ast.BasicLit).Value))
		}
	}
	return labels
}

func TestLabelsAreUnique(t *testing.T) {
	labels := table(t, sources(t)["label.go"])
	if len(labels) < 25 {
		t.Fatalf("only %d labels found", len(labels))
	}
	by := map[string]string{}
	for name, l := range labels {
		if other, ok := by[l]; ok || l == "" {
			t.Errorf("%s and %s are the same label", name, other)
		}
		by[l] = name
	}
	uses := map[string]int{}
	for _, f := range sources(t) {
		ast.Inspect(f, func(n ast.Node) bool {
			if id, ok := n.(*ast.Ident); ok {
				uses[id.Name]++
			}
			return true
		})
	}
	for name := range labels {
		if uses[name] < 2 {
			t.Errorf("%s is not used", name)
		}
	}
}

// TestLabelsOnlyInTheTable finds labels made elsewhere: a text of the table, a value of type label, or a call of one of pkg/mls's
// labelled functions, which would take a string.
func TestLabelsOnlyInTheTable(t *testing.T) {
	files := sources(t)
	known := map[string]bool{}
	for _, l := range table(t, files["label.go"]) {
		known[l] = true
	}
	labelled := map[string]bool{
		"SignWithLabel": true, "VerifyWithLabel": true, "ExpandWithLabel": true, "RefHash": true, "Export": true,
		"EncryptWithLabel": true, "DecryptWithLabel": true,
	}
	for name, f := range files {
		if name == "label.go" {
			continue
		}
		ast.Inspect(f, func(n ast.Node) bool {
			switch n := n.(type) {
			case *ast.BasicLit:
				if s, err := strconv.Unquote(n.Value); n.Kind == token.STRING && err == nil && (known[s] || strings.HasPrefix(s, "MIMIMI")) {
					t.Errorf("%s has the label %q", name, s)
				}
			case *ast.CallExpr:
				if id, ok := n.Fun.(*ast.Ident); ok && id.Name == "label" {
					t.Errorf("%s makes a label", name)
				}
			case *ast.SelectorExpr:
				if labelled[n.Sel.Name] {
					t.Errorf("%s calls %s: use the functions of label.go", name, n.Sel.Name)
				}
			case *ast.ValueSpec:
				if id, ok := n.Type.(*ast.Ident); ok && id.Name == "label" {
					t.Errorf("%s declares a label", name)
				}
			}
			return true
		})
	}
}
