package bus

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"time"

	"github.com/nats-io/nats.go/jetstream"
)

// Retention is how long the streams of one kind keep what they hold, in days, and between what an operator may choose.
type Retention struct {
	Kind  string `json:"stream"` // such as GROUP, for all GROUP_p
	Days  int    `json:"days"`
	Least int    `json:"least"`
	Most  int    `json:"most"`
}

// adjustable says which streams' age is the operator's to choose. Of all others it is part of the protocol (docs/protocol.md §3). Init and Verify take any choice for what the table says.
var adjustable = []Retention{
	{Kind: streamGroup, Least: 90, Most: 400}, // the hub makes checkpoints for the default, and members may need the trees of past epochs for a month: longer only
	{Kind: streamOutbox, Least: 7, Most: 90},  // for how long another domain may be down and gets all by itself; afterwards its clients resync
	{Kind: streamDead, Least: 1, Most: 400},
	{Kind: streamAudit, Least: 90, Most: 3650},
}

// streamKind is the kind of a stream: its name without the partition.
func streamKind(name string) string {
	kind, _, _ := strings.Cut(name, "_")
	return kind
}

// chosen says whether an age is one that the operator may have chosen for a stream.
func chosen(stream string, age time.Duration) bool {
	for _, r := range adjustable {
		if r.Kind == streamKind(stream) {
			return age >= time.Duration(r.Least)*day && age <= time.Duration(r.Most)*day
		}
	}
	return false
}

// Retentions returns the present choices. It is for the admin service. Errors: problem.Unavailable; jetstream.ErrStreamNotFound before Init.
func (b *Bus) Retentions(ctx context.Context) ([]Retention, error) {
	var all []Retention
	for _, r := range adjustable {
		for _, c := range b.layout.streams() {
			if streamKind(c.Name) != r.Kind {
				continue
			}
			have, err := b.streamConfig(ctx, c.Name)
			if err != nil {
				return nil, fmt.Errorf("stream %s: %w", c.Name, err)
			}
			r.Days = int(have.MaxAge / day)
			break // the others have the same
		}
		all = append(all, r)
	}
	return all, nil
}

// SetRetention makes the streams of a kind keep what they hold for so many days; what is older goes at once. It is for the admin service. A failure half-way leaves some as they were: repeat it.
func (b *Bus) SetRetention(ctx context.Context, kind string, days int) error {
	age := time.Duration(days) * day
	if !chosen(kind, age) {
		for _, r := range adjustable {
			if r.Kind == kind {
				return fmt.Errorf("bus: %s can keep what it holds for %d to %d days", kind, r.Least, r.Most)
			}
		}
		return errors.New("bus: how long that stream keeps what it holds is part of the protocol")
	}
	for _, want := range b.layout.streams() {
		if streamKind(want.Name) != kind {
			continue
		}
		have, err := b.streamConfig(ctx, want.Name)
		if err != nil {
			return fmt.Errorf("stream %s: %w", want.Name, err)
		}
		for _, d := range drift(want, have) {
			return fmt.Errorf("bus: stream %s differs from the table in %s: run init first", want.Name, d.setting)
		}
		want.MaxAge = age
		if _, err := b.js.UpdateStream(ctx, want); err != nil {
			return b.layout.initProblem(err)
		}
	}
	return nil
}

// keepChoice lets an update leave an age that the operator chose.
func keepChoice(want, have jetstream.StreamConfig) jetstream.StreamConfig {
	if chosen(have.Name, have.MaxAge) {
		want.MaxAge = have.MaxAge
	}
	return want
}
