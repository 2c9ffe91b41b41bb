package privacy

import (
	"bytes"
	"encoding/base64"
	"encoding/binary"
	"encoding/hex"
	"fmt"
	"maps"
	"slices"
	"strings"
)

// Canary is one sensitive value of a scenario.
type Canary struct {
	Kind   string // a row of the matrix
	Label  string // whose or which, for the report: a name of the scenario's, never the value
	Domain string // the domain of the user whom it belongs to
	Hub    string // the domain of the hub of the group that it is used in, if it is
	Value  []byte
}

// Leak is a canary found where the matrix forbids it.
type Leak struct {
	Kind   string `json:"kind"`
	Label  string `json:"label"`
	Domain string `json:"domain"` // of the view
	Role   Role   `json:"role"`
	Where  string `json:"where"` // request, subject, header, payload, file, file name, log, metrics, export
	Form   string `json:"form"`  // raw, hex, base64
}

// minCanary is the shortest value that can be searched for: shorter ones occur by chance.
const minCanary = 8

// pattern is one form of one canary.
type pattern struct {
	canary int
	form   string
	bytes  []byte
}

// Report is the result of a check: what was searched and what was found.
type Report struct {
	Leaks []Leak
	// Seen says for each role (over all domains) which kinds were met at all, allowed ones included.
	Seen map[Role]map[string]int
	// Searched counts the bytes of each role's views.
	Searched map[Role]int
}

// Check searches every view for every canary. It fails if a canary is too short to be searched for or of a kind that the matrix does not have.
func (r *Recorder) Check(m *Matrix, canaries []Canary) (*Report, error) {
	for _, c := range canaries {
		if _, ok := m.row(c.Kind); !ok {
			return nil, fmt.Errorf("privacy check: the matrix has no row %q", c.Kind)
		}
		if len(c.Value) < minCanary {
			return nil, fmt.Errorf("privacy check: a canary of kind %q is shorter than %d bytes", c.Kind, minCanary)
		}
	}
	index := newIndex(canaries)
	rep := &Report{Leaks: []Leak{}, Seen: make(map[Role]map[string]int), Searched: make(map[Role]int)}
	found := make(map[Leak]bool)
	r.mu.Lock()
	defer r.mu.Unlock()
	for v, items := range r.views {
		seen := make(map[int]bool)
		for _, it := range items {
			rep.Searched[v.Role] += len(it.data)
			index.search(it.data, func(p pattern) {
				c := canaries[p.canary]
				seen[p.canary] = true
				if !m.allows(v, c) {
					found[Leak{c.Kind, c.Label, v.Domain, v.Role, it.where, p.form}] = true
				}
			})
		}
		for i := range seen {
			if rep.Seen[v.Role] == nil {
				rep.Seen[v.Role] = make(map[string]int)
			}
			rep.Seen[v.Role][canaries[i].Kind]++
		}
	}
	for _, l := range r.traces.leaks() {
		found[l] = true
	}
	rep.Leaks = slices.AppendSeq(rep.Leaks, maps.Keys(found)) // never nil, so that it is [] in JSON
	slices.SortFunc(rep.Leaks, func(a, b Leak) int { return strings.Compare(fmt.Sprint(a), fmt.Sprint(b)) })
	return rep, nil
}

// index finds many patterns in one pass: by their first eight bytes.
type index struct {
	first   [1 << 16]bool // the first two bytes of some pattern
	buckets map[uint64][]pattern
}

func newIndex(canaries []Canary) *index {
	x := &index{buckets: make(map[uint64][]pattern)}
	for i, c := range canaries {
		for _, value := range names(c.Value) {
			for _, p := range forms(i, value) {
				x.first[binary.LittleEndian.Uint16(p.bytes)] = true
				k := binary.LittleEndian.Uint64(p.bytes)
				x.buckets[k] = append(x.buckets[k], p)
			}
		}
	}
	return x
}

func (x *index) search(data []byte, hit func(pattern)) {
	for i := 0; i+minCanary <= len(data); i++ {
		if !x.first[binary.LittleEndian.Uint16(data[i:])] {
			continue
		}
		for _, p := range x.buckets[binary.LittleEndian.Uint64(data[i:])] {
			if bytes.HasPrefix(data[i:], p.bytes) {
				hit(p)
			}
		}
	}
}

// names returns what may stand for a value: itself, and of a mimi URI its last part, and if that is a UUID the UUID's bytes and its digits without
// dashes. A last part that is too short to be searched for is left out.
func names(value []byte) [][]byte {
	out := [][]byte{value}
	uri, ok := strings.CutPrefix(string(value), "mimi://")
	if !ok {
		return out
	}
	last := uri[strings.LastIndexByte(uri, '/')+1:]
	if len(last) >= minCanary {
		out = append(out, []byte(last))
	}
	digits := strings.ReplaceAll(last, "-", "")
	if raw, err := hex.DecodeString(digits); err == nil && len(raw) == 16 && digits != last {
		out = append(out, raw)
	}
	return out
}

// forms returns a value raw, in both cases of hexadecimal and in both alphabets of base64 at each of the three offsets at which it may stand in a
// longer encoded text (without the characters that depend on its neighbours).
func forms(canary int, value []byte) []pattern {
	h := hex.EncodeToString(value)
	out := []pattern{{canary, "raw", value}, {canary, "hex", []byte(h)}, {canary, "hex", []byte(strings.ToUpper(h))}}
	for offset := range 3 {
		padded := append(make([]byte, offset), value...)
		for _, enc := range []*base64.Encoding{base64.RawStdEncoding, base64.RawURLEncoding} {
			text := enc.EncodeToString(padded)
			text = text[(offset*8+5)/6:]
			if len(padded)%3 != 0 {
				text = text[:len(text)-1]
			}
			if len(text) >= minCanary {
				out = append(out, pattern{canary, "base64", []byte(text)})
			}
		}
	}
	return out
}
