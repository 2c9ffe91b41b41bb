package main

import (
	"encoding/json"
	"fmt"
	"strconv"
	"strings"
	"testing"
	"time"

	"google.golang.org/protobuf/proto"

	pb "mimimi.example/api/mimimi/v1"
	"mimimi.example/pkg/bus"
	"mimimi.example/pkg/mimimi"
)

// replayLine is what a replay prints with -json: an entry or the sum.
type replayLine struct {
	replaySum
	Stream     string
	Group      int
	Sequence   uint64
	Kind       string
	Outcome    string
	Divergence string
}

// replay runs a replay and returns its lines, the sum last.
func (d *deployment) replay(code int, args ...string) []replayLine {
	d.t.Helper()
	out, _ := d.mimimi(code, append([]string{"replay", "-json", "-config", d.config("replay")}, args...)...)
	var lines []replayLine
	for text := range strings.Lines(out) {
		var l replayLine
		if err := json.Unmarshal([]byte(text), &l); err != nil {
			d.t.Fatalf("%v: %q", err, text)
		}
		lines = append(lines, l)
	}
	return lines
}

// forge appends a checkpoint that is not the state of a group, as a hub might that has gone wrong.
func (d *deployment) forge(id string) uint64 {
	d.t.Helper()
	b := d.bus("hub")
	s := b.GroupHandshakes([]byte(id))
	m, err := b.Last(d.t.Context(), s)
	d.do(err)
	last := new(pb.GroupEntry)
	d.do(proto.Unmarshal(m.Data, last))
	at := last.Checkpoint
	if last.GetState() != nil {
		at = m.Sequence
	}
	c, err := b.At(d.t.Context(), s, at)
	d.do(err)
	e := new(pb.GroupEntry)
	d.do(proto.Unmarshal(c.Data, e))
	e.GetState().Creation = false
	e.RequestId, e.AcceptedMs, e.Handshake, e.Checkpoint = []byte("sixteen bytes ok"), last.AcceptedMs, m.Sequence, at
	data, err := proto.Marshal(e)
	d.do(err)
	sequence, err := b.Publish(d.t.Context(), s, data, bus.PublishOptions{ExpectLast: &m.Sequence})
	d.do(err)
	return sequence
}

// TestReplayCommand: a replay of a real conversation finds nothing, in whole, of one group and of a part; says no name; and finds a checkpoint that a hub should not have written.
func TestReplayCommand(t *testing.T) {
	t.Parallel()
	d := deploy(t)
	people, ids := d.friends("alice", "bob")
	for i := range 10 {
		from, to := people[i%2], people[1-i%2]
		d.do(d.stage.send(t.Context(), from, ids[from], fmt.Sprint("message ", i), to))
	}
	all := d.replay(0)
	sum := all[len(all)-1]
	if sum.Groups != 2 || sum.Divergences != 0 || sum.Unchecked != 0 || sum.Checkpoints < 2 || sum.Entries != len(all)-1 || sum.Entries < 15 {
		t.Errorf("unexpected sum %+v", sum.replaySum) // the conversation's group, and that of the connection
	}
	text, _ := d.mimimi(0, "replay", "-config", d.config("replay"))
	for _, secret := range []string{"mimi:", "alice", "bob", ownDomain} {
		if strings.Contains(text, secret) {
			t.Errorf("a replay prints %q", secret)
		}
	}

	// One group, by an entry and by its id; from a sequence, and until a time before everything.
	e := all[0]
	one := d.replay(0, "-stream", e.Stream, "-entry", strconv.FormatUint(e.Sequence, 10))
	n := 0
	for _, l := range all[:len(all)-1] {
		if l.Group == e.Group {
			n++
		}
	}
	if one[len(one)-1].Groups != 1 || len(one)-1 != n {
		t.Errorf("of one group %d entries, want %d", len(one)-1, n)
	}
	id := d.groupID(e.Stream, e.Sequence)
	if again := d.replay(0, "-group-file", d.write("group.id", []byte(id+"\n"))); len(again) != len(one) {
		t.Errorf("by its id %d entries, want %d", len(again), len(one))
	}
	if part := d.replay(0, "-stream", e.Stream, "-entry", strconv.FormatUint(e.Sequence, 10), "-from", strconv.FormatUint(one[1].Sequence, 10)); len(part) != len(one)-1 {
		t.Errorf("from its second entry %d lines, want %d", len(part), len(one)-1)
	}
	if none := d.replay(0, "-to", "2020-01-01T00:00:00Z"); len(none) != 1 {
		t.Errorf("before everything: %+v", none)
	}
	if some := d.replay(0, "-from", time.Now().Add(-time.Hour).Format(time.RFC3339)); len(some) != len(all) {
		t.Errorf("since an hour ago %d lines, want %d", len(some), len(all))
	}

	again := d.replay(0, "-fanout")
	if s := again[len(again)-1]; s.Entries != sum.Entries || s.Deliveries < 15 || s.Divergences != 0 {
		t.Errorf("with fan-out: %+v", s.replaySum)
	}

	bad := d.forge(id)
	lines := d.replay(3, "-brief")
	if len(lines) != 2 || lines[0].Sequence != bad || lines[0].Stream != e.Stream || !strings.Contains(lines[0].Divergence, "not the state") || lines[1].First != bad || lines[1].FirstStream != e.Stream {
		t.Errorf("a false checkpoint at %d: %+v", bad, lines)
	}
	if _, errs := d.mimimi(3, "replay", "-config", d.config("replay")); !strings.Contains(errs, fmt.Sprintf("first at entry %d of %s", bad, e.Stream)) {
		t.Errorf("it says %q", errs)
	}
	for _, args := range [][]string{{"-entry", "1"}, {"-from", "yesterday"}, {"-fanout", "-group-file", "-"}} {
		d.mimimi(2, append([]string{"replay", "-config", d.config("replay")}, args...)...)
	}
	d.mimimi(1, "replay", "-config", d.config("hub"))
	d.mimimi(1, "replay", "-config", d.config("replay"), "-stream", "QUEUE_0")
}

// groupID is the id of the group that has an entry.
func (d *deployment) groupID(stream string, sequence uint64) string {
	d.t.Helper()
	b := d.bus("replay")
	p, err := partitionOf(b, stream)
	d.do(err)
	m, err := b.At(d.t.Context(), b.GroupPartitionLog(p), sequence)
	d.do(err)
	e := new(pb.GroupEntry)
	d.do(proto.Unmarshal(m.Data, e))
	id, err := mimimi.ParseGroupID(e.GroupId)
	d.do(err)
	return id.Wire()
}
