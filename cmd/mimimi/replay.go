package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"strconv"
	"strings"
	"time"

	"mimimi.example/pkg/bus"
	"mimimi.example/pkg/mimimi"
	"mimimi.example/services/fanout"
	"mimimi.example/services/hub"
)

// errDiverges is the outcome of a replay that found something. run has an exit code of its own for it.
var errDiverges = errors.New("the log and what was made of it depart from each other")

// replayCommand replays what the hub accepted. It reads and never writes, and prints no identifier: groups are numbered as they come.
type replayCommand struct {
	Config    string `required:"" type:"path" help:"Configuration file with a section bus, like the services'; nkey_file is the replay user's, who may only read."`
	Backup    string `type:"path" help:"Replay a backup instead of the deployment, which is not asked for anything; needs --key."`
	Key       string `type:"path" help:"File of the private key that admin backup-key wrote."`
	Stream    string `help:"One GROUP stream, such as GROUP_0; all without it."`
	Entry     uint64 `help:"Only the group that has the entry with this sequence; needs --stream."`
	GroupFile string `help:"Only the group whose id is in this file; - is standard input."`
	From      string `help:"First entry: a sequence, or a time such as 2026-11-27T12:00:00Z. Everything that is there without it."`
	To        string `help:"Last entry, by sequence or time; the state there is compared with the next checkpoint. The end without it."`
	Fanout    bool   `help:"Also work the log off again as fan-out does, into a stream of this process alone, and compare with what waits in OUTBOX and what went to DEAD. For whole streams."`
	Brief     bool   `help:"Print only what diverges, and the sum."`
	JSON      bool   `help:"Print one JSON object a line."`
}

// Validate is called by the parser.
func (r *replayCommand) Validate() error {
	if (r.Backup == "") != (r.Key == "") {
		return errors.New("--backup and --key go together")
	}
	if r.Entry > 0 && (r.Stream == "" || r.GroupFile != "") {
		return errors.New("--entry needs --stream, and goes without --group-file")
	}
	if r.Fanout && (r.Entry > 0 || r.GroupFile != "") {
		return errors.New("--fanout is for whole streams: leave out --entry and --group-file")
	}
	for _, s := range []string{r.From, r.To} {
		if _, _, err := sequenceOrTime(s); err != nil {
			return err
		}
	}
	return nil
}

// sequenceOrTime reads one of the two; "" is the sequence 0.
func sequenceOrTime(s string) (sequence uint64, at time.Time, err error) {
	if s == "" {
		return 0, at, nil
	}
	if sequence, err = strconv.ParseUint(s, 10, 64); err == nil {
		return sequence, at, nil
	}
	if at, err = time.Parse(time.RFC3339, s); err != nil {
		return 0, at, errors.New("neither a sequence nor a time such as 2026-11-27T12:00:00Z")
	}
	return 0, at, nil
}

// Run replays. It returns errDiverges if something departs.
func (r *replayCommand) Run(ctx context.Context, out io.Writer, bar *progress) error {
	options, err := busOptions(r.Config, "replay")
	if err != nil {
		return err
	}
	work := func(ctx context.Context, b *bus.Bus) error {
		if err := b.Verify(ctx); err != nil {
			return err
		}
		return r.replay(ctx, &replaying{b: b, layout: options.Layout, hub: hub.NewReplayer(b), out: out, bar: bar, brief: r.Brief, json: r.JSON})
	}
	if r.Backup == "" {
		return connected(ctx, options, work)
	}
	return onScratch(ctx, func(ctx context.Context, s *bus.Server) error {
		own := ownOptions(s, options.Layout)
		if err := connected(ctx, own, func(ctx context.Context, b *bus.Bus) error { return restoreTo(ctx, b, r.Backup, r.Key) }); err != nil {
			return err
		}
		own.Service = "replay"
		return connected(ctx, own, work)
	})
}

// replaySum is what a replay ends with. Sequences are those of one stream.
type replaySum struct {
	Groups      int    `json:"groups"`
	Entries     int    `json:"entries"`
	Checkpoints int    `json:"checkpoints_equal"`
	Unchecked   int    `json:"unchecked"`
	Deliveries  int    `json:"deliveries"` // that fan-out's entries lead to
	Waiting     int    `json:"waiting"`    // of these, in OUTBOX
	Divergences int    `json:"divergences"`
	FirstStream string `json:"first_stream,omitempty"`
	First       uint64 `json:"first_sequence,omitempty"` // of what diverges, the first one in the first stream that has one
}

// replaying is one run.
type replaying struct {
	b      *bus.Bus
	layout bus.Layout
	hub    *hub.Replayer
	out    io.Writer
	bar    *progress
	brief  bool
	json   bool

	sum   replaySum
	seen  uint64
	total uint64
}

// span is the part of one partition that is replayed; to is 0 for the end.
type span struct {
	partition int
	stream    string
	from, to  uint64
}

func (r *replayCommand) replay(ctx context.Context, p *replaying) error {
	group, err := r.group(ctx, p)
	if err != nil {
		return err
	}
	spans, err := r.spans(ctx, p.b, group)
	if err != nil {
		return err
	}
	for _, s := range spans {
		if err := p.count(ctx, s); err != nil {
			return err
		}
	}
	for _, s := range spans {
		if group != nil {
			err = p.one(ctx, s, *group)
		} else {
			err = p.hub.Groups(ctx, s.partition, s.from, func(id mimimi.GroupID, sequence uint64) error {
				switch {
				case s.to > 0 && sequence > s.to:
					return nil
				case id == (mimimi.GroupID{}):
					return p.print(s, hub.Replayed{Sequence: sequence, Kind: "unreadable", Outcome: "diverges", Divergence: "the entry names no group"}, 0)
				}
				return p.one(ctx, s, id)
			})
		}
		if err != nil {
			p.bar.clear()
			return err
		}
	}
	if r.Fanout {
		if err := p.fanOut(ctx, spans); err != nil {
			p.bar.clear()
			return err
		}
	}
	return p.end()
}

// fanOut works off the spans again.
func (p *replaying) fanOut(ctx context.Context, spans []span) error {
	p.seen = 0
	return onScratch(ctx, func(ctx context.Context, s *bus.Server) error {
		return connected(ctx, ownOptions(s, p.layout), func(ctx context.Context, own *bus.Bus) error {
			if err := own.Init(ctx); err != nil {
				return err
			}
			for _, s := range spans {
				if err := fanout.Replay(ctx, p.b, own, s.partition, s.from, s.to, func(x fanout.Rerun) error { return p.printRerun(s, x) }); err != nil {
					return err
				}
			}
			return nil
		})
	})
}

// printRerun counts what fan-out makes of an entry and prints it.
func (p *replaying) printRerun(s span, x fanout.Rerun) error {
	p.seen++
	p.bar.at(p.seen, p.total)
	p.sum.Deliveries += x.Deliveries
	p.sum.Waiting += x.Waiting
	if x.Divergence != "" {
		p.diverges(s, x.Sequence)
	} else if p.brief {
		return nil
	}
	p.bar.clear()
	if p.json {
		return printJSON(p.out, struct {
			Stream string `json:"stream"`
			Fanout bool   `json:"fanout"`
			fanout.Rerun
		}{s.stream, true, x})
	}
	_, err := fmt.Fprintf(p.out, "%s fan-out  %8d  %s  %-10s %d deliveries, %d waiting  %s\n", s.stream, x.Sequence, x.Accepted.Format(time.RFC3339), x.Kind, x.Deliveries, x.Waiting,
		strings.TrimSuffix(x.Outcome+": "+x.Divergence, ": "))
	return err
}

// diverges counts a divergence.
func (p *replaying) diverges(s span, sequence uint64) {
	p.sum.Divergences++
	if p.sum.First == 0 || s.stream == p.sum.FirstStream && sequence < p.sum.First {
		p.sum.FirstStream, p.sum.First = s.stream, sequence
	}
}

// group is the one that was asked for, nil for all.
func (r *replayCommand) group(ctx context.Context, p *replaying) (*mimimi.GroupID, error) {
	if r.Entry > 0 {
		partition, err := partitionOf(p.b, r.Stream)
		if err != nil {
			return nil, err
		}
		id, err := p.hub.GroupOf(ctx, partition, r.Entry)
		return &id, err
	}
	if r.GroupFile == "" {
		return nil, nil
	}
	in := os.Stdin
	if r.GroupFile != "-" {
		f, err := os.Open(r.GroupFile)
		if err != nil {
			return nil, err
		}
		defer f.Close()
		in = f
	}
	const most = 1 << 10 // a group id has at most 300 bytes
	text, err := io.ReadAll(io.LimitReader(in, most))
	if err != nil {
		return nil, err
	}
	id, err := mimimi.ParseGroupID([]byte(strings.TrimSpace(string(text))))
	return &id, err
}

func partitionOf(b *bus.Bus, stream string) (int, error) {
	for p := range b.GroupPartitions() {
		if b.GroupPartitionLog(p).Stream() == stream {
			return p, nil
		}
	}
	return 0, errors.New("--stream: the deployment has no such GROUP stream")
}

// spans are the parts of the log to replay. Times become sequences of each partition.
func (r *replayCommand) spans(ctx context.Context, b *bus.Bus, group *mimimi.GroupID) ([]span, error) {
	stream := r.Stream
	if group != nil {
		stream = b.GroupLog([]byte(group.Wire())).Stream()
	}
	if stream != "" {
		if _, err := partitionOf(b, stream); err != nil {
			return nil, err
		}
	}
	var all []span
	for p := range b.GroupPartitions() {
		if stream != "" && b.GroupPartitionLog(p).Stream() != stream {
			continue
		}
		s, some, err := spanOf(ctx, b, p, r.From, r.To)
		if err != nil {
			return nil, err
		}
		if !some {
			continue
		}
		all = append(all, s)
	}
	return all, nil
}

// spanOf is a part of a partition, by sequences or times; some is false if it ends before everything.
func spanOf(ctx context.Context, b *bus.Bus, p int, from, to string) (s span, some bool, err error) {
	s = span{partition: p, stream: b.GroupPartitionLog(p).Stream()}
	var at time.Time
	if s.from, at, err = sequenceOrTime(from); err != nil {
		return s, false, err
	}
	if !at.IsZero() {
		if s.from, err = b.Since(ctx, b.GroupPartitionLog(p), at); err != nil {
			return s, false, err
		}
	}
	if s.to, at, err = sequenceOrTime(to); err != nil || at.IsZero() {
		return s, true, err
	}
	next, err := b.Since(ctx, b.GroupPartitionLog(p), at.Add(time.Second)) // times here are whole seconds
	s.to = max(next, 1) - 1
	return s, s.to > 0, err
}

// count adds what there is of a span to what the bar counts to.
func (p *replaying) count(ctx context.Context, s span) error {
	have, err := p.b.Extent(ctx, p.b.GroupPartitionLog(s.partition))
	if err != nil {
		return err
	}
	last := have.Last
	if s.to > 0 {
		last = min(last, s.to)
	}
	if first := max(have.First, s.from); last >= first {
		p.total += min(last-first+1, have.Messages)
	}
	return nil
}

// one replays one group.
func (p *replaying) one(ctx context.Context, s span, id mimimi.GroupID) error {
	p.sum.Groups++
	number := p.sum.Groups
	return p.hub.Group(ctx, id, s.from, s.to, func(x hub.Replayed) error { return p.print(s, x, number) })
}

// print counts an entry and prints it, the number in place of its group.
func (p *replaying) print(s span, x hub.Replayed, group int) error {
	p.seen++
	p.bar.at(p.seen, p.total)
	p.sum.Entries++
	switch {
	case x.Divergence != "":
		p.diverges(s, x.Sequence)
	case x.Outcome == "equal":
		p.sum.Checkpoints++
	case x.Outcome == "unchecked":
		p.sum.Unchecked++
	}
	if p.brief && x.Divergence == "" {
		return nil
	}
	p.bar.clear()
	if p.json {
		return printJSON(p.out, struct {
			Stream string `json:"stream"`
			Group  int    `json:"group"`
			hub.Replayed
		}{s.stream, group, x})
	}
	_, err := fmt.Fprintf(p.out, "%s group %d  %8d  %s  %-10s epoch %-5d %s\n", s.stream, group, x.Sequence, x.Accepted.Format(time.RFC3339), x.Kind, x.Epoch,
		strings.TrimSuffix(x.Outcome+": "+x.Divergence, ": "))
	return err
}

// end prints the sum.
func (p *replaying) end() error {
	p.bar.clear()
	s := p.sum
	err := say(p.out, p.json, s, "%d groups, %d entries, %d checkpoints equal, %d entries unchecked, %d deliveries of which %d wait, %d diverge",
		s.Groups, s.Entries, s.Checkpoints, s.Unchecked, s.Deliveries, s.Waiting, s.Divergences)
	if s.Divergences == 0 || err != nil {
		return err
	}
	return fmt.Errorf("%w: first at entry %d of %s", errDiverges, s.First, s.FirstStream)
}
