package many

import (
	"context"
	"errors"
	"fmt"
	"slices"

	"mimimi.example/pkg/client"
)

// talk lets one device of each member write to each group, and waits until all devices that are there have it.
func (p *play) talk(about string) {
	p.t.Helper()
	type line struct {
		g    *conversation
		d    *device
		text string
	}
	byDevice := make(map[*device][]line) // one device writes one thing after the other
	for _, g := range p.groups {
		for _, u := range g.members {
			here := slices.DeleteFunc(slices.Clone(u.devices), func(d *device) bool { return d.away })
			d := here[p.dice.IntN(len(here))]
			text := fmt.Sprintf("%s, says %s in %s", about, d.name, g.name)
			g.said = append(g.said, text)
			byDevice[d] = append(byDevice[d], line{g, d, text})
		}
	}
	var batches [][]line
	for _, d := range p.all() {
		if lines := byDevice[d]; lines != nil {
			batches = append(batches, lines)
		}
	}
	each(p, "talk", batches, func(ctx context.Context, lines []line) error {
		for _, l := range lines {
			id, err := p.local(ctx, l.d, l.g)
			if err != nil || id == "" {
				return errors.Join(err, fmt.Errorf("%s does not know %s", l.d.name, l.g.name))
			}
			if _, err := l.d.c.Send(ctx, id, []byte(l.text)); err != nil {
				return err
			}
		}
		return nil
	})
	p.settle(about, p.complete)
}

// away sends the last device of every user that has three, or two, away, or brings them back. At least one stays.
func (p *play) away(away bool) {
	for i, u := range p.users {
		if i%2 == 0 && len(u.devices) > 1 {
			u.devices[len(u.devices)-1].away = away
		}
	}
}

// complete says what a device that is there has not got yet: only what was said after it came, for one that came later.
func (p *play) complete(ctx context.Context) (string, error) {
	for _, g := range p.groups {
		for _, u := range g.members {
			for _, d := range u.devices {
				if d.away {
					continue
				}
				got, err := p.heard(ctx, d, g)
				if err != nil {
					return "", err
				}
				want := g.said[d.since(g):]
				for _, text := range want {
					if !slices.Contains(got, text) {
						return fmt.Sprintf("%q at %s", text, d.name), nil
					}
				}
			}
		}
	}
	return "", nil
}

// heard is what a device shows of a conversation, its own user's messages too, in its order. The first message, which names the group, is left out.
func (p *play) heard(ctx context.Context, d *device, g *conversation) (texts []string, err error) {
	id, err := p.local(ctx, d, g)
	if err != nil || id == "" {
		return nil, err
	}
	events, err := allEvents(ctx, d)
	if err != nil {
		return nil, err
	}
	for _, e := range events {
		if e.Group == id && (e.Kind == client.EventMessage || e.Kind == client.EventSent) && string(e.Body) != g.name {
			texts = append(texts, string(e.Body))
		}
	}
	return texts, nil
}

// check compares what all devices show: each message once, and in one order for each group.
func (p *play) check() {
	ctx := p.t.Context()
	p.settle("all are identified", p.joined)
	messages := 0
	for _, g := range p.groups {
		var order []string
		for _, u := range g.members {
			for _, d := range u.devices {
				got, err := p.heard(ctx, d, g)
				if err != nil {
					p.t.Fatal(err)
				}
				messages += len(got)
				want := g.said[d.since(g):]
				if len(got) != len(want) {
					p.t.Errorf("%s shows %d messages of %s, want %d", d.name, len(got), g.name, len(want))
				}
				if d.since(g) > 0 {
					if n := len(order) - len(got); n < 0 || !slices.Equal(order[n:], got) {
						p.t.Errorf("%s has another order in %s", d.name, g.name)
					}
					continue
				}
				if order == nil {
					order = got
				}
				if !slices.Equal(order, got) {
					p.t.Errorf("%s has another order in %s", d.name, g.name)
				}
			}
		}
	}
	p.t.Logf("%d devices show %d messages in %d groups", len(p.all()), messages, len(p.groups))
}

// since is how much had been said in a conversation when the device came.
func (d *device) since(g *conversation) int { return d.came[g] }

// allEvents returns all that a device has to show.
func allEvents(ctx context.Context, d *device) (all []client.Event, err error) {
	for after := uint64(0); ; {
		some, err := d.c.Events(ctx, after, 0)
		if err != nil || len(some) == 0 {
			return all, err
		}
		all, after = append(all, some...), some[len(some)-1].Seq
	}
}

func describe(p *play, contacts []client.Contact) (out []string) {
	for _, c := range contacts {
		for _, u := range p.users {
			if u.user == c.User {
				out = append(out, u.name+":"+string(c.State))
			}
		}
	}
	return out
}
