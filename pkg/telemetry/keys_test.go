package telemetry

import (
	"io/fs"
	"maps"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"

	"go.opentelemetry.io/otel/attribute"
)

// TestKeysInUse: every attribute that the code attaches is on the allow-list. One that is not would be dropped without a word, and its measurements counted as one.
func TestKeysInUse(t *testing.T) {
	call, found := regexp.MustCompile(`attribute\.String\("([^"]*)"`), 0
	for _, dir := range []string{"../../pkg", "../../services", "../../cmd"} {
		err := filepath.WalkDir(dir, func(path string, d fs.DirEntry, err error) error {
			if err != nil || d.IsDir() || !strings.HasSuffix(path, ".go") || strings.HasSuffix(path, "_test.go") {
				return err
			}
			source, err := os.ReadFile(path)
			for _, m := range call.FindAllSubmatch(source, -1) {
				found++
				if key := attribute.Key(m[1]); metricKeys[key] == nil && spanKeys[key] == nil && key != "service.name" {
					t.Errorf("%s: the attribute %q is on no allow-list", path, m[1])
				}
			}
			return err
		})
		if err != nil {
			t.Fatal(err)
		}
	}
	if found == 0 {
		t.Error("no attribute was found")
	}
}

// TestCollectorHasTheSameList: the collector's own list of attributes is this package's.
func TestCollectorHasTheSameList(t *testing.T) {
	b, err := os.ReadFile("../../deploy/observability/collector.yaml")
	if err != nil {
		t.Fatal(err)
	}
	_, list, _ := strings.Cut(string(b), "allowed_keys:\n")
	got := make(map[string]bool)
	for line := range strings.Lines(list) {
		key, ok := strings.CutPrefix(strings.TrimSpace(line), "- ")
		if !ok {
			break
		}
		got[key] = true
	}
	want := map[string]bool{"service.name": true}
	for k := range spanKeys {
		want[string(k)] = true
	}
	for k := range metricKeys {
		want[string(k)] = true
	}
	if !maps.Equal(got, want) {
		t.Errorf("the collector lets through %v, want %v", got, want)
	}
}

// TestMessagesInUse: every message that services log at a level that leaves is on the list.
func TestMessagesInUse(t *testing.T) {
	call, found := regexp.MustCompile(`\.(?:Info|Warn|Error)(?:Context)?\((?:ctx, )?"([^"]*)"`), 0
	for _, dir := range []string{"../bus", "../service", "../redeem", "../../services"} {
		err := filepath.WalkDir(dir, func(path string, d fs.DirEntry, err error) error {
			if err != nil || d.IsDir() || !strings.HasSuffix(path, ".go") || strings.HasSuffix(path, "_test.go") || strings.Contains(path, "test/") {
				return err
			}
			source, err := os.ReadFile(path)
			for _, m := range call.FindAllSubmatch(source, -1) {
				found++
				if !messages[string(m[1])] {
					t.Errorf("%s: the message %q is on no allow-list", path, m[1])
				}
			}
			return err
		})
		if err != nil {
			t.Fatal(err)
		}
	}
	if found < 10 {
		t.Errorf("only %d messages were found", found)
	}
}
