package layout

import (
	"fmt"
	"go/ast"
	"go/parser"
	"go/token"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
)

// TestEveryParserIsFuzzed: each function of pkg/mls and pkg/mimimi that reads bytes is named in the package's testdata/parsers.txt with the fuzz target
// that gives it bytes, and the form of that target if it has several, or with the reason why there is none.
func TestEveryParserIsFuzzed(t *testing.T) {
	for _, pkg := range []string{"pkg/mls", "pkg/mimimi"} {
		t.Run(pkg, func(t *testing.T) {
			tests := readTests(t, pkg)
			table := readTable(t, filepath.Join("../..", pkg, "testdata/parsers.txt"))
			found := parsers(t, pkg)
			for name := range found {
				if table[name] == "" {
					t.Errorf("%s reads bytes and parsers.txt does not say what fuzzes it", name)
				}
			}
			for name, by := range table {
				if !found[name] {
					t.Errorf("parsers.txt names %s, which is no function that reads bytes", name)
				}
				if strings.HasPrefix(by, "- ") {
					continue
				}
				for target := range strings.SplitSeq(by, "; ") {
					function, form, _ := strings.Cut(target, "/")
					if !strings.HasPrefix(function, "Fuzz") || !tests.has(function, form) {
						t.Errorf("%s: there is no %s", name, target)
					}
				}
			}
			if len(found) < 40 {
				t.Errorf("only %d parsers found", len(found))
			}
		})
	}
}

// readTable reads lines of a name and what is said of it.
func readTable(t *testing.T, file string) map[string]string {
	t.Helper()
	b, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	table := map[string]string{}
	for line := range strings.Lines(string(b)) {
		line = strings.TrimSpace(line)
		if line == "" || strings.HasPrefix(line, "#") {
			continue
		}
		name, by, ok := strings.Cut(line, " | ")
		if !ok || table[name] != "" {
			t.Fatalf("not a name and what fuzzes it, or a second time: %s", line)
		}
		table[name] = by
	}
	return table
}

// readerName is what functions that read are called here.
var readerName = regexp.MustCompile(`^(parse|Parse|Unmarshal|restore|restage|Open)|^read$`)

// parsers finds the functions that are called what readers are called, and those exported ones that take bytes and may refuse them.
func parsers(t *testing.T, pkg string) map[string]bool {
	t.Helper()
	files, err := filepath.Glob(filepath.Join("../..", pkg, "*.go"))
	if err != nil {
		t.Fatal(err)
	}
	found := map[string]bool{}
	for _, name := range files {
		if strings.HasSuffix(name, "_test.go") {
			continue
		}
		file, err := parser.ParseFile(token.NewFileSet(), name, nil, parser.SkipObjectResolution)
		if err != nil {
			t.Fatal(err)
		}
		for _, decl := range file.Decls {
			if f, ok := decl.(*ast.FuncDecl); ok && (readerName.MatchString(f.Name.Name) || f.Name.IsExported() && takesBytes(f.Type) && mayRefuse(f.Type)) {
				found[qualified(f)] = true
			}
		}
	}
	return found
}

// qualified is a function's name after that of its receiver's type.
func qualified(f *ast.FuncDecl) string {
	if f.Recv == nil {
		return f.Name.Name
	}
	typ := f.Recv.List[0].Type
	if p, ok := typ.(*ast.StarExpr); ok {
		typ = p.X
	}
	return fmt.Sprintf("%v.%s", typ, f.Name.Name)
}

// takesBytes reports whether a parameter is []byte or [][]byte, or the configuration of a join, which holds such.
func takesBytes(f *ast.FuncType) bool {
	for _, p := range f.Params.List {
		typ := p.Type
		if name, ok := typ.(*ast.Ident); ok && strings.HasSuffix(name.Name, "JoinConfig") || ok && name.Name == "JoinConfig" {
			return true
		}
		slice, ok := typ.(*ast.ArrayType)
		if !ok {
			continue
		}
		if inner, ok := slice.Elt.(*ast.ArrayType); ok {
			slice = inner
		}
		if elem, ok := slice.Elt.(*ast.Ident); ok && elem.Name == "byte" && slice.Len == nil {
			return true
		}
	}
	return false
}

// mayRefuse reports whether a result is an error or a bool.
func mayRefuse(f *ast.FuncType) bool {
	if f.Results == nil {
		return false
	}
	for _, r := range f.Results.List {
		if name, ok := r.Type.(*ast.Ident); ok && (name.Name == "error" || name.Name == "bool") {
			return true
		}
	}
	return false
}
