package client

import (
	"errors"
	"math/rand/v2"
	"slices"
	"time"

	"mimimi.example/pkg/problem"
)

// What a hub can make a client do by withholding, refusing or overtaking is bounded over time, not only in number: each reaction to it comes later than the one before, and nothing
// that a hub merely says ends a group before it has said so for a week. The user is told what goes on (docs/threat-model.md).

const (
	// namedBurst is how many reads of a group's log under the own leaf's name are made as they are needed in a day; each later one comes at least namedFirst after the one before, and
	// twice as long each time, up to namedMost. The hub decides whether a read without a name is good enough (§9).
	namedBurst = 4
	namedFirst = time.Minute
	namedMost  = time.Hour
	// namedSpread is the random time before such a read: a hub that provokes one in each of several groups at once must not see which leaves answer together.
	namedSpread = 2 * time.Minute
	// fruitlessBurst, fruitlessFirst and fruitlessMost are the same for reads of a log that does not give what is missing.
	fruitlessBurst = 8
	fruitlessFirst = 30 * time.Second
	fruitlessMost  = time.Hour
	// busyBurst, busyFirst and pauseMost are the same for tries to enter anew that others' commits overtake; where the hub refuses or shows too little, the pauses begin at once, with pauseFirst.
	busyBurst  = 4
	busyFirst  = 15 * time.Second
	pauseFirst = time.Minute
	pauseMost  = 6 * time.Hour
	// returnFor is how long a client tries to come back into a group before it takes the hub at its word.
	returnFor = 7 * 24 * time.Hour
	// oftenReturns is how many entries anew in a day are said to be too many.
	oftenReturns = 3
	// heldFirst is the pause after a hub took no message, since the group sends too fast, heldMost the longest; after heldSaid refusals in a row the user is told.
	heldFirst = 2 * time.Second
	heldMost  = 5 * time.Minute
	heldSaid  = 5
	// maxRemembered bounds the times that are remembered of a day.
	maxRemembered = 64
)

const (
	deniedSentence = "the group's hub says that you are no longer in it"
	againSentence  = ": it is asked again, for a week"
	oftenSentence  = "this device had to enter the group anew several times today: its hub, or a member, may be causing that, so it waits longer each time"
)

const heldSentence = "the group's hub takes no more messages at present, since too many are sent in the group: what waits is sent later"

// errLater says that something is put off: it is no failure.
var errLater = problem.New(problem.Unavailable, "the group's hub is asked a little later")

// errWithheld says that a log leaves out what comes before an entry.
var errWithheld = errors.New("the group's log is not complete")

// pauseAfter is the pause after something was done n times: none while that is less than burst, then first, and twice as long each time, up to most.
func pauseAfter(n, burst int, first, most time.Duration) time.Duration {
	if n < burst {
		return 0
	}
	pause := first
	for range n - burst {
		if pause *= 2; pause >= most {
			return most
		}
	}
	return pause
}

// lastDay keeps the times of the last day, at most maxRemembered.
func lastDay(times []int64, now time.Time) []int64 {
	kept := slices.DeleteFunc(slices.Clone(times), func(t int64) bool { return now.Sub(timeOf(t)) >= 24*time.Hour })
	return kept[max(0, len(kept)-maxRemembered):]
}

// jitter is a random time up to d, 0 if nothing is spread.
func (c *Client) jitter(d time.Duration) time.Duration {
	if d = min(d, c.cfg.Spread); d <= 0 {
		return 0
	}
	return rand.N(d)
}

// mayName says whether the log may be read under the own leaf's name now, and notes that it is; otherwise it chooses when. When it may not, the error is errLater.
func (c *Client) mayName(g *group) error {
	now := c.now()
	recent := lastDay(g.rec.Named, now)
	if g.rec.NameAt == 0 {
		at := now.Add(c.jitter(namedSpread))
		if n := len(recent); n > 0 {
			at = at.Add(max(0, timeOf(recent[n-1]).Add(pauseAfter(n, namedBurst, namedFirst, namedMost)).Sub(now)))
		}
		if at.After(now) {
			return errors.Join(errLater, c.change(g, func(Tx) error {
				g.rec.NameAt = at.Unix() + 1
				return nil
			}))
		}
	}
	if now.Unix() < g.rec.NameAt {
		return errLater
	}
	return c.change(g, func(Tx) error {
		g.rec.NameAt, g.rec.Named = 0, append(recent, now.Unix())
		return nil
	})
}

// looked notes that the log was looked at, and whether that gave anything.
func (c *Client) looked(g *group, fruitful bool) {
	if fruitful {
		g.rec.Fruitless, g.rec.ReadAt = 0, 0
		return
	}
	g.rec.Fruitless++
	g.rec.ReadAt = c.now().Add(pauseAfter(g.rec.Fruitless, fruitlessBurst, fruitlessFirst, fruitlessMost)).Unix()
}

// readDue says when the log is looked at again after something was passed over.
func (g *group) readDue() time.Time { return timeOf(max(g.rec.NameAt, g.rec.ReadAt)) }

// deny notes that the hub does not let this client read, though it is a member as far as it knows. A hub, or a clock that is wrong, may say so for a while; after a week it is over.
func (c *Client) deny(tx Tx, g *group) error {
	now := c.now()
	if g.rec.DeniedSince == 0 {
		g.rec.DeniedSince = now.Unix()
		if err := c.warn(tx, g.rec.ID, deniedSentence+againSentence); err != nil {
			return err
		}
	}
	if now.Sub(timeOf(g.rec.DeniedSince)) >= returnFor {
		return c.over(tx, g, deniedSentence, 0)
	}
	g.rec.Denied++
	g.rec.ReadAt = now.Add(pauseAfter(g.rec.Denied, 0, pauseFirst/2, pauseMost)).Unix()
	return nil
}

// postpone puts off an entry anew that did not come about. why is said, once, and is what the group ends with if that goes on for a week; empty for mere haste of others.
func (c *Client) postpone(g *group, why string) error {
	return c.change(g, func(tx Tx) error {
		r, now := g.rec.Resync, c.now()
		r.Commit, r.Proof, r.Request = nil, nil, nil
		if r.Since == 0 {
			r.Since = now.Unix()
		}
		r.Tries++
		if now.Sub(timeOf(r.Since)) >= returnFor {
			switch why {
			case deniedSentence:
				return c.over(tx, g, why, 0)
			case endedSentence:
				return c.ended(tx, g)
			case "":
				why = unenterable
			}
			return c.lose(tx, g, why)
		}
		pause := pauseAfter(r.Tries, busyBurst, busyFirst, pauseMost)
		if why != "" {
			pause = pauseAfter(r.Tries, 0, pauseFirst/2, pauseMost)
		}
		r.Due = now.Add(pause + c.jitter(pause/2)).UnixNano()
		if why == "" || r.Said == why {
			return nil
		}
		r.Said = why
		return c.warn(tx, g.rec.ID, why+againSentence)
	})
}

// holdBack notes that the hub took no message, since the group sends faster than it takes. The message stays where it is, and all others of the group with it; whatever else there
// is to do goes on.
func (c *Client) holdBack(g *group) error {
	return c.change(g, func(tx Tx) error {
		g.rec.HeldBack++
		pause := pauseAfter(g.rec.HeldBack, 1, heldFirst, heldMost)
		g.rec.SendAt = c.now().Add(pause + c.jitter(pause/2)).UnixNano()
		if g.rec.HeldBack != heldSaid {
			return nil
		}
		return c.warn(tx, g.rec.ID, heldSentence)
	})
}

// heldBack says whether a group's messages wait since the hub took none.
func (c *Client) heldBack(g *group) bool { return c.now().UnixNano() < g.rec.SendAt }
