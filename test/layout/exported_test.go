package layout

import (
	"go/ast"
	"go/parser"
	"go/token"
	"path/filepath"
	"slices"
	"strings"
	"testing"
)

// TestExportedNamesOfMLS: the package stays as small as docs/rfc9420-divergences.md says, counted as it says.
func TestExportedNamesOfMLS(t *testing.T) {
	files, err := filepath.Glob("../../pkg/mls/*.go")
	if err != nil {
		t.Fatal(err)
	}
	names := []string{"errors"}
	for _, name := range files {
		if strings.HasSuffix(name, "_test.go") {
			continue
		}
		file, err := parser.ParseFile(token.NewFileSet(), name, nil, parser.SkipObjectResolution)
		if err != nil {
			t.Fatal(err)
		}
		for _, decl := range file.Decls {
			names = append(names, exported(decl)...)
		}
	}
	names = slices.DeleteFunc(names, func(n string) bool { return strings.HasSuffix(n, "Config") || strings.HasSuffix(n, "Options") })
	if n := len(names); n >= 60 || n < 40 {
		t.Errorf("%d exported names: %v", n, names)
	}
}

// exported returns the exported functions and types of a declaration.
func exported(decl ast.Decl) (names []string) {
	switch d := decl.(type) {
	case *ast.FuncDecl:
		if d.Recv == nil && d.Name.IsExported() {
			names = append(names, d.Name.Name)
		}
	case *ast.GenDecl:
		for _, spec := range d.Specs {
			if typ, ok := spec.(*ast.TypeSpec); ok && typ.Name.IsExported() {
				names = append(names, typ.Name.Name)
			}
		}
	}
	return names
}
