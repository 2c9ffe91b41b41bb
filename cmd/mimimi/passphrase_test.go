package main

import (
	"bytes"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"mimimi.example/cmd/mimimi/domain"
)

// TestPassphraseFile: a client that was registered with a passphrase opens with it and nothing else, and one without needs none.
func TestPassphraseFile(t *testing.T) {
	d, err := domain.Start(t.Context(), domain.Options{Dir: t.TempDir(), Domain: "a.localhost"})
	if err != nil {
		t.Fatal(err)
	}
	defer func() {
		if err := d.Stop(t.Context()); err != nil {
			t.Error(err)
		}
	}()
	dir := t.TempDir()
	file := func(name, content string) string {
		path := filepath.Join(dir, name)
		if err := os.WriteFile(path, []byte(content), 0o600); err != nil {
			t.Fatal(err)
		}
		return path
	}
	right, wrong := file("right", "correct horse\n"), file("wrong", "a guess\n")
	folder := filepath.Join(dir, "alice")
	for _, c := range []struct {
		args []string
		want string // in the error; "": success
	}{
		{[]string{"register", "-dir", folder, "-passphrase-file", file("two", "one\ntwo\n"), "-provider", d.ClientFile(), "alice"}, "one line"},
		{[]string{"register", "-dir", folder, "-passphrase-file", file("empty", "\n"), "-provider", d.ClientFile(), "alice"}, "one line"},
		{[]string{"register", "-dir", folder, "-passphrase-file", right, "-provider", d.ClientFile(), "alice"}, ""},
		{[]string{"contacts", "-dir", folder, "-passphrase-file", right}, ""},
		{[]string{"contacts", "-dir", folder, "-passphrase-file", wrong}, "-passphrase-file"},
		{[]string{"contacts", "-dir", folder}, "-passphrase-file"},
	} {
		var out, errs bytes.Buffer
		code := run(t.Context(), c.args, &out, &errs)
		if (code == 0) != (c.want == "") || !strings.Contains(errs.String(), c.want) {
			t.Errorf("%v: exit code %d: %s", c.args, code, errs.String())
		}
	}
}
