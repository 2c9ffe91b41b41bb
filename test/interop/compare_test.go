package interop

import (
	"bufio"
	"bytes"
	"encoding/json"
	"flag"
	"fmt"
	"maps"
	"math/bits"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"runtime"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"
)

var (
	compare      = flag.Bool("compare", false, "measure pkg/mls, openmls and mls-rs in turn and print the table; give go test a -timeout of 3h")
	compareTime  = flag.Duration("compare.time", time.Second, "how long each row of the table is measured")
	compareSizes = flag.String("compare.sizes", "2,10,100,1000", "sizes of the groups")
)

// The rows of the table by the names of pkg/mls's benchmarks: primitives of suite 1, what all else is made of; operations without a size; and those for each size.
var (
	primitiveRows = []string{"Seal", "Open", "DeriveKeyPair", "Sign", "Verify"}
	singleRows    = []string{"Create", "Encrypt", "Decrypt"}
	sizedRows     = []string{"Add", "Join", "Commit", "CommitWarm", "Process", "ProcessWarm", "ExternalJoin", "ProcessExternal"}
)

// cell names one figure: a row and a size, 0 if it has none.
type cell struct {
	name string
	n    int
}

// figures are nanoseconds for one operation.
type figures map[cell]float64

// TestCompare does the same work in pkg/mls, openmls and mls-rs, in suite 1, one after the other, and prints a table in Markdown. It asserts nothing
// about speed. Run it on a quiet machine:
//
//	go test ./test/interop -run TestCompare -v -compare -timeout 3h
func TestCompare(t *testing.T) {
	if !*compare {
		t.Skip("measures only with -compare")
	}
	dir := cargo(t)
	ours := measureOurs(t)
	theirs := map[string]map[string]figures{}
	for _, name := range []string{"openmls", "mls-rs"} {
		theirs[name] = measurePeer(t, filepath.Join(dir, name+"-peer"), *compareTime, *compareSizes)
	}
	printTable(t, ours, theirs)
}

// TestPeersMeasure sees that the peers' benchmarks run and have every row, as short as they can be.
func TestPeersMeasure(t *testing.T) {
	dir := cargo(t)
	for _, name := range []string{"openmls", "mls-rs"} {
		t.Run(name, func(t *testing.T) {
			out := measurePeer(t, filepath.Join(dir, name+"-peer"), 0, "2,5")
			if len(out) != 2 {
				t.Errorf("%d crypto providers, want 2", len(out))
			}
			for provider, f := range out {
				if want := len(primitiveRows) + len(singleRows) + 2*len(sizedRows); len(f) != want {
					t.Errorf("%s: %d rows, want %d", provider, len(f), want)
				}
			}
		})
	}
}

// measureOurs runs pkg/mls's benchmarks.
func measureOurs(t *testing.T) figures {
	t.Helper()
	out := figures{}
	sizes := strings.ReplaceAll(*compareSizes, ",", "|")
	for _, pattern := range []string{
		"^Benchmark(" + strings.Join(primitiveRows, "|") + ")$/^X25519_AES128GCM_SHA256_Ed25519$",
		"^Benchmark(" + strings.Join(singleRows, "|") + ")$",
		"^Benchmark(" + strings.Join(sizedRows, "|") + ")$/^(" + sizes + ")$",
	} {
		cmd := exec.CommandContext(t.Context(), "go", "test", "-run", "^$", "-timeout", "2h", "-bench", pattern, "-benchtime", compareTime.String(), "../../pkg/mls")
		cmd.Stderr = os.Stderr
		b, err := cmd.Output()
		if err != nil {
			t.Fatalf("%v\n%s", err, b)
		}
		line := regexp.MustCompile(`(?m)^Benchmark(\w+?)(?:/(\d+)|/X\w+)?(?:-\d+)?\s+\d+\s+([\d.]+) ns/op`)
		for _, m := range line.FindAllSubmatch(b, -1) {
			n := 0
			if len(m[2]) != 0 {
				n, err = strconv.Atoi(string(m[2]))
			}
			ns, err2 := strconv.ParseFloat(string(m[3]), 64)
			if err != nil || err2 != nil {
				t.Fatal(err, err2)
			}
			out[cell{string(m[1]), n}] = ns
		}
	}
	if len(out) == 0 {
		t.Fatal("no benchmark of pkg/mls was understood")
	}
	return out
}

// measurePeer runs a peer's benchmark and returns its figures by crypto provider.
func measurePeer(t *testing.T, program string, each time.Duration, sizes string) map[string]figures {
	t.Helper()
	cmd := exec.CommandContext(t.Context(), program, "bench", "-seconds", fmt.Sprint(each.Seconds()), "-sizes", sizes,
		"-rows", strings.Join(slices.Concat(primitiveRows, singleRows, sizedRows), ","))
	cmd.Stderr = os.Stderr
	b, err := cmd.Output()
	if err != nil {
		t.Fatal(err)
	}
	out := map[string]figures{}
	for s := bufio.NewScanner(bytes.NewReader(b)); s.Scan(); {
		var row struct {
			Provider, Name string
			N              int
			NS             float64
		}
		if err := json.Unmarshal(s.Bytes(), &row); err != nil {
			t.Fatal(err)
		}
		if out[row.Provider] == nil {
			out[row.Provider] = figures{}
		}
		out[row.Provider][cell{row.Name, row.N}] = row.NS
	}
	return out
}

// printTable prints our time and, for each library and crypto provider of its, that of the other and how many times ours it is; and for each how much of it is primitives.
func printTable(t *testing.T, ours figures, theirs map[string]map[string]figures) {
	t.Helper()
	var b strings.Builder
	fmt.Fprintf(&b, "%s, %d CPUs, %s for each row; how many times ours, and how much of it is primitives\n\n", runtime.Version(), runtime.NumCPU(), *compareTime)
	type peer struct{ library, provider string }
	var peers []peer
	fmt.Fprintf(&b, "| operation | members | pkg/mls |")
	for _, library := range slices.Sorted(maps.Keys(theirs)) {
		for _, provider := range slices.Sorted(maps.Keys(theirs[library])) {
			peers = append(peers, peer{library, provider})
			fmt.Fprintf(&b, " %s, %s |", library, provider)
		}
	}
	fmt.Fprintf(&b, "\n|---|---:|---:|%s\n", strings.Repeat("---:|", len(peers)))
	for _, c := range tableCells(t) {
		size := ""
		if c.n != 0 {
			size = fmt.Sprint(c.n)
		}
		share := func(f figures) string {
			if ns := primitives(f, c); ns > 0 {
				return fmt.Sprintf(", %.0f %%", 100*ns/f[c])
			}
			return ""
		}
		fmt.Fprintf(&b, "| %s | %s | %s%s |", c.name, size, nice(ours[c]), share(ours))
		for _, p := range peers {
			ns, ok := theirs[p.library][p.provider][c]
			if !ok || ours[c] == 0 {
				t.Errorf("no figure for %s %d of %s", c.name, c.n, p)
			}
			fmt.Fprintf(&b, " %s ×%.2f%s |", nice(ns), ns/ours[c], share(theirs[p.library][p.provider]))
		}
		b.WriteByte('\n')
	}
	t.Log("\n" + b.String())
}

// primitives is what the public-key operations alone cost that an operation cannot do without, 0 for one for which that is not told here. What an
// operation does for each member it does on all processors at once.
func primitives(ours figures, c cell) float64 {
	cost := func(name string) float64 { return ours[cell{name, 0}] }
	seal, open, derive, sign, verify := cost("Seal"), cost("Open"), cost("DeriveKeyPair"), cost("Sign"), cost("Verify")
	n, depth := float64(c.n), float64(bits.Len(uint(max(c.n, 1)-1)))
	all := func(each float64) float64 { // in parallel, if it is worth while
		if c.n < 4 {
			return each
		}
		return each / float64(runtime.GOMAXPROCS(0))
	}
	path := (depth+1)*derive + 2*sign // keys of the path's nodes and the leaf; the leaf and the commit are signed
	switch c.name {
	case "Encrypt":
		return sign
	case "Decrypt":
		return verify
	case "Add": // two signatures of each KeyPackage, a seal for each newcomer; the commit and the GroupInfo are signed
		return all((n-1)*(2*verify+seal)) + 2*sign
	case "Join": // the leaves' signatures and the GroupInfo's
		return all(n*verify) + open + verify
	case "Commit":
		return all((n-1)*seal) + path
	case "CommitWarm":
		return all(depth*seal) + path
	case "Process", "ProcessWarm": // the commit's and the new leaf's signature
		return 2*verify + open + depth*derive
	case "ExternalJoin":
		return all(n*(verify+seal)) + verify + seal + path
	case "ProcessExternal": // one opens the init secret, one the path secret of the root
		return 2*verify + 2*open + derive
	}
	return 0
}

func tableCells(t *testing.T) []cell {
	t.Helper()
	var out []cell
	for _, n := range slices.Concat(primitiveRows, singleRows) {
		out = append(out, cell{n, 0})
	}
	for _, name := range sizedRows {
		for _, s := range strings.Split(*compareSizes, ",") {
			n, err := strconv.Atoi(s)
			if err != nil {
				t.Fatal(err)
			}
			out = append(out, cell{name, n})
		}
	}
	return out
}

// nice is a duration with three digits.
func nice(ns float64) string {
	switch {
	case ns < 1e3:
		return fmt.Sprintf("%.3g ns", ns)
	case ns < 1e6:
		return fmt.Sprintf("%.3g µs", ns/1e3)
	case ns < 1e9:
		return fmt.Sprintf("%.3g ms", ns/1e6)
	}
	return fmt.Sprintf("%.3g s", ns/1e9)
}
