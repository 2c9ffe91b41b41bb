package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"strings"
	"time"

	"mimimi.example/pkg/bus"
	"mimimi.example/pkg/problem"
	"mimimi.example/services/fanout"
)

// adminDead is for what the services could not process.
type adminDead struct {
	List    adminDeadList    `cmd:"" help:"Print what could not be processed, and why, oldest first."`
	Redrive adminDeadRedrive `cmd:"" help:"Have fan-out work off again what it could not, or a part of the log. What works is taken off the list."`
}

// deadLine is an entry of DEAD as it is printed.
type deadLine struct {
	Number   uint64 `json:"number"` // in DEAD
	At       string `json:"at"`
	Service  string `json:"service"`
	Family   string `json:"family"` // of the subject, without tokens
	Stream   string `json:"stream"`
	Sequence uint64 `json:"sequence"`
	Reason   string `json:"reason"`
	Outcome  string `json:"outcome,omitempty"` // of a re-drive
}

// dead is an entry of DEAD.
func dead(m *bus.Message) (*deadLine, error) {
	g, err := bus.ParseGrave(m.Data)
	if err != nil {
		return nil, fmt.Errorf("entry %d of DEAD: %w", m.Sequence, err)
	}
	return &deadLine{m.Sequence, m.Time.UTC().Format(time.RFC3339), strings.TrimPrefix(m.Subject, "dead."), g.Family, g.Stream, g.Sequence, g.Reason, ""}, nil
}

func (l *deadLine) print(out io.Writer, asJSON bool) error {
	text := l.Reason
	if l.Outcome != "" {
		text = l.Outcome
	}
	return say(out, asJSON, l, "%d  %s  %-8s %s entry %d: %s", l.Number, l.At, l.Service, l.Stream, l.Sequence, text)
}

type adminDeadList struct{ adminFlags }

// Run prints DEAD.
func (a *adminDeadList) Run(ctx context.Context, out io.Writer) error {
	return a.onBus(ctx, func(ctx context.Context, b *bus.Bus) error {
		n := 0
		err := b.Each(ctx, b.Graves(), 0, func(m *bus.Message) error {
			n++
			l, err := dead(m)
			if err != nil {
				return err
			}
			return l.print(out, a.JSON)
		})
		if err != nil || n > 0 || a.JSON {
			return err
		}
		_, err = fmt.Fprintln(out, "nothing")
		return err
	})
}

type adminDeadRedrive struct {
	adminFlags
	Stream string `help:"Work off a part of this GROUP stream again instead of what is in DEAD; needs --from and --to. For deliveries that were lost on the way: whoever has them sees nothing twice."`
	From   string `help:"First entry: a sequence, or a time such as 2026-11-27T12:00:00Z."`
	To     string `help:"Last entry."`
}

// Validate is called by the parser.
func (a *adminDeadRedrive) Validate() error {
	if some := a.Stream != ""; some != (a.From != "") || some != (a.To != "") {
		return errors.New("--stream, --from and --to go together")
	}
	_, _, err := sequenceOrTime(a.From)
	if err == nil {
		_, _, err = sequenceOrTime(a.To)
	}
	return err
}

// Run re-drives. It fails if something could not be worked off this time either.
func (a *adminDeadRedrive) Run(ctx context.Context, out io.Writer, bar *progress) error {
	setting := ""
	if a.Stream != "" {
		setting = a.Stream + " " + a.From + " to " + a.To
	}
	return a.audited(ctx, "dead redrive", setting, backupTime, func(ctx context.Context, b *bus.Bus) error {
		if a.Stream != "" {
			return a.part(ctx, b, out, bar)
		}
		return a.graves(ctx, b, out)
	})
}

var errStillDead = errors.New("not everything could be worked off")

// graves works off what fan-out buried. All else is left: a message of OUTBOX that was buried is gone, and comes again with its part of the log; a set of KeyPackages stays where it is until it expires.
func (a *adminDeadRedrive) graves(ctx context.Context, b *bus.Bus, out io.Writer) error {
	still := false
	err := b.Each(ctx, b.Graves(), 0, func(m *bus.Message) error {
		l, err := dead(m)
		if err != nil {
			return err
		}
		p, err := partitionOf(b, l.Stream)
		if err != nil || l.Service != "fanout" {
			l.Outcome = "left: re-drive the part of the log of that time"
			return l.print(out, a.JSON)
		}
		err = fanout.Redrive(ctx, b, p, l.Sequence)
		switch {
		case err == nil:
			l.Outcome = "worked off"
		case problem.KindOf(err) == problem.NotFound:
			l.Outcome = "gone: " + err.Error()
		case problem.KindOf(err) == problem.Unavailable:
			return err
		default:
			still, l.Outcome = true, "still: "+err.Error()
			return l.print(out, a.JSON)
		}
		if _, err := b.Remove(ctx, b.Graves(), m.Sequence); err != nil {
			return err
		}
		return l.print(out, a.JSON)
	})
	if err == nil && still {
		err = errStillDead
	}
	return err
}

// part works off a part of the log.
func (a *adminDeadRedrive) part(ctx context.Context, b *bus.Bus, out io.Writer, bar *progress) error {
	p, err := partitionOf(b, a.Stream)
	if err != nil {
		return err
	}
	s, ok, err := spanOf(ctx, b, p, a.From, a.To)
	if err != nil || !ok {
		return err
	}
	var done, failed, seen uint64
	for after := max(s.from, 1) - 1; ; {
		const entries, size = 256, 4 << 20
		page, more, err := b.Read(ctx, b.GroupPartitionLog(p), after, entries, size)
		if err != nil {
			return err
		}
		for _, m := range page {
			after = m.Sequence
			if s.to > 0 && m.Sequence > s.to {
				more = false
				break
			}
			seen++
			bar.at(seen, s.to-s.from+1)
			switch err := fanout.Redrive(ctx, b, p, m.Sequence); {
			case err == nil:
				done++
			case problem.KindOf(err) == problem.Unavailable:
				return err
			default:
				failed++
			}
		}
		if !more || len(page) == 0 {
			break
		}
	}
	bar.clear()
	if err := say(out, a.JSON, map[string]uint64{"worked_off": done, "rejected": failed}, "%d entries were worked off again, %d rejected", done, failed); err != nil || failed == 0 {
		return err
	}
	return errStillDead
}
