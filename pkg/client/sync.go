package client

import (
	"context"
	"errors"
	"fmt"
	"time"

	mimimiv1 "mimimi.example/api/mimimi/v1"
	"mimimi.example/pkg/mimimi"
	"mimimi.example/pkg/problem"
)

// Sync fetches everything that waits in queue and inbox, processes it, and does what follows from it: answers joiners, completes connections,
// repeats commits and messages that did not count, commits others' leaving, keeps the stock of KeyPackages. It returns when nothing is left to do now.
// What it fails at is tried again by the next Sync; the errors are joined. A domain that the provider does not reach is tried once.
func (c *Client) Sync(ctx context.Context) error {
	return c.lockedFor(ctx, func() error {
		c.channels.again.never()
		c.channels.down.begin()
		defer c.channels.down.end()
		if c.account.rec.Deleting != deleteNothing {
			return c.goOnDeleting(ctx)
		}
		if done, err := c.syncDevice(ctx); done || err != nil {
			return err
		}
		renewal := c.renewIfDue(ctx) // before the connection record, which holds the present certificate
		err := c.completeAccount(ctx)
		if err != nil && !c.account.rec.QueueMade {
			return errors.Join(renewal, err)
		}
		// What the provider refuses may be because this client was removed: that stands in the queue.
		errs := []error{renewal, err, c.keepWallet(ctx)}
		if !c.account.rec.CutOff { // what only this client had would be lost to the others
			errs = append(errs, c.readInbox(ctx))
		}
		for range maxSyncRounds {
			got, err := c.readQueue(ctx)
			if errors.Is(err, errNoQueue) {
				if err = c.renewQueue(ctx); err == nil {
					got, err = c.readQueue(ctx)
				}
			}
			if err == nil {
				err = c.noteRead()
			}
			errs = append(errs, err, c.workContacts(ctx), c.workDevices(ctx), c.workAll(ctx))
			if err != nil || got == 0 || ctx.Err() != nil || c.account.rec.Removed {
				break
			}
		}
		if !c.account.rec.Removed {
			errs = append(errs, c.keepUp(ctx))
		}
		if c.account.rec.Removed {
			return errors.Join(ErrDeviceRemoved, c.erase(ctx))
		}
		errs = append(errs, c.refillStock(ctx), c.deleteOldIndexes(ctx), c.compareDocuments(ctx))
		_, err = c.flushDevices(ctx)
		errs = append(errs, err)
		return distinct(errs)
	})
}

// distinct joins errors, each text once: one service that is down fails in many places.
func distinct(errs []error) error {
	seen := make(map[string]bool)
	var all []error
	for _, err := range errs {
		if err != nil && !seen[err.Error()] {
			seen[err.Error()] = true
			all = append(all, err)
		}
	}
	return errors.Join(all...)
}

// readQueue reads what waits in the queue, entry by entry, each stored with its position before the next; the acknowledgement comes after, also of what
// an earlier run stored and did not acknowledge. It returns how many there were.
func (c *Client) readQueue(ctx context.Context) (got int, err error) {
	for range maxSyncRounds {
		after, err := c.position()
		if err != nil {
			return got, err
		}
		res, err := call(ctx, c.channels.queue.Read, &mimimiv1.ReadQueueRequest{
			QueueId: c.account.rec.QueueID, After: after, Limit: readBatch, Signed: c.signedQueue(opQueueRead, newRequestID(), bigEndian(after)),
		})
		if problem.KindOf(err) == problem.Denied {
			return got, fmt.Errorf("read queue: %w: %w", errNoQueue, err)
		}
		if err != nil {
			return got, fmt.Errorf("read queue: %w", err)
		}
		for _, e := range res.Entries {
			if e.Position <= after {
				continue
			}
			if c.account.rec.Removed {
				return got, nil // the rest is for nobody
			}
			if err := c.receiveEntry(ctx, e); err != nil {
				if ctx.Err() != nil {
					return got, err
				}
				return got, errors.Join(err, c.acknowledge(ctx))
			}
			got++
		}
		if err := c.acknowledge(ctx); err != nil {
			return got, err
		}
		if !res.More || len(res.Entries) == 0 {
			return got, nil
		}
	}
	return got, nil
}

// receiveEntry processes one entry. If that fails by what this client holds of the entry's group, so that it would fail each time, the group is set aside:
// one damaged group must not hold up the others.
func (c *Client) receiveEntry(ctx context.Context, e *mimimiv1.QueueEntry) error {
	if ctx.Err() != nil {
		return ctx.Err()
	}
	var err error
	var group []byte
	switch {
	case e.Delivery != nil:
		group, err = e.Delivery.GroupId, c.deliver(ctx, e.Delivery, e.Position)
	case e.LowStock:
		err = c.lowStock(e.Position)
	case e.Lost != nil:
		group, err = e.Lost.GroupId, c.lost(e.Lost.GroupId, e.Position)
	default:
		err = c.pass(e.Position)
	}
	if err == nil || ctx.Err() != nil || errors.Is(err, errWrite) {
		return err
	}
	return c.setAside(ctx, group, e)
}

// setAside passes over an entry that cannot be processed. Its group is read from the log later, as far as that goes; one that cannot be loaded is over.
func (c *Client) setAside(ctx context.Context, group []byte, e *mimimiv1.QueueEntry) error {
	local, found, err := c.groupByID(group)
	if err != nil {
		return err
	}
	if !found {
		return c.update(func(tx Tx) error {
			return errors.Join(c.warn(tx, "", "something that was received could not be processed"), setPosition(tx, e.Position))
		})
	}
	delete(c.groups, local) // it may be ahead of the file
	g, err := c.group(local)
	if errors.Is(err, ErrStore) {
		if err := c.loseGroup(local, group); err != nil {
			return err
		}
		if d := e.Delivery; d != nil && d.Kind == mimimiv1.Delivery_KIND_WELCOME {
			return c.receiveWelcome(ctx, d, e.Position)
		}
		return c.pass(e.Position)
	}
	if err != nil {
		return err
	}
	return c.change(g, func(tx Tx) error {
		var err error
		if !g.rec.Behind {
			err = c.warn(tx, g.rec.ID, "something that was received could not be processed")
		}
		g.rec.Behind = true
		return errors.Join(err, setPosition(tx, e.Position))
	})
}

// lost takes note that the queue lost entries of a group: they are read from the group's log.
func (c *Client) lost(groupID []byte, position uint64) error {
	local, found, err := c.groupByID(groupID)
	if err != nil || !found {
		return errors.Join(err, c.pass(position))
	}
	g, err := c.group(local)
	if err != nil {
		return err
	}
	return c.fallBehind(g, position)
}

// acknowledge tells the queue what is stored, if that is more than it was told before.
func (c *Client) acknowledge(ctx context.Context) error {
	now, err := c.position()
	if err != nil {
		return err
	}
	before, err := c.acked()
	if err != nil || now <= before {
		return err
	}
	_, err = call(ctx, c.channels.queue.Ack, &mimimiv1.AckQueueRequest{
		QueueId: c.account.rec.QueueID, UpTo: now, Signed: c.signedQueue(opQueueAck, newRequestID(), bigEndian(now)),
	})
	if err != nil {
		return fmt.Errorf("acknowledge: %w", err)
	}
	return c.update(func(tx Tx) error { return tx.Put(bucketMeta, keyAcked, bigEndian(now)) })
}

// workAll does what is to be done in each group. One group's failure does not hold up the others.
func (c *Client) workAll(ctx context.Context) error {
	var ids []string
	err := c.view(func(tx Tx) error {
		return tx.Each(bucketGroupIDs, nil, func(_, local []byte) error {
			ids = append(ids, string(local))
			return nil
		})
	})
	errs := []error{err}
	for _, id := range ids {
		if ctx.Err() != nil {
			return ctx.Err()
		}
		r, found, err := get[groupRecord](c.store, bucketGroups, []byte(id))
		switch {
		case errors.Is(err, ErrStore):
			err = c.loseGroup(id, nil)
		case err == nil && found && (r.State != GroupOver || r.Again != nil):
			err = c.work(ctx, id)
		}
		errs = append(errs, err)
	}
	clear(c.results) // nobody waits for these
	return distinct(errs)
}

// work does, step by step, what a group needs until nothing is left to do now.
func (c *Client) work(ctx context.Context, id string) error {
	for range maxSteps {
		g, err := c.group(id)
		if errors.Is(err, ErrUnknownGroup) {
			return nil // it was dropped
		}
		if errors.Is(err, ErrStore) {
			return c.loseGroup(id, nil)
		}
		if err != nil {
			return err
		}
		did, err := c.step(ctx, g)
		if err != nil || !did {
			return err
		}
	}
	return nil
}

// step does the most urgent thing and reports whether there was one. The order: enter; take note of the log; then what was begun; then control
// messages before commits, since the commit that answers a joiner comes after the links.
func (c *Client) step(ctx context.Context, g *group) (did bool, err error) {
	switch r := g.rec; {
	case r.State == GroupOver && r.Again != nil:
		return true, c.enterAgain(ctx, g)
	case r.State == GroupOver || r.State == GroupLeaving:
		return false, nil
	case r.Peer != "" && c.idle(g):
		return true, c.endIdle(g)
	case r.Create != nil:
		return true, c.enter(ctx, g, c.create)
	case r.Join != nil && !r.Join.Entered && c.now().Unix() < r.QuietUntil:
		return false, nil
	case r.Join != nil && !r.Join.Entered:
		return true, c.enter(ctx, g, c.join)
	case r.Welcome != nil:
		if seen, waits := c.waiting[r.ID]; waits && seen == c.applied && c.now().Before(timeOf(r.Welcome.Received).Add(welcomeWait)) {
			return false, nil
		}
		delete(c.waiting, r.ID)
		return true, c.welcome(ctx, g)
	case !g.member():
		return false, nil
	case r.Refused != r.Told:
		return true, c.tellRefused(ctx, g)
	case r.Refused && !g.hasTask(taskLeave):
		return false, nil
	case r.Resync != nil:
		if c.now().UnixNano() < r.Resync.Due {
			return false, nil
		}
		return true, c.resync(ctx, g)
	case r.Behind && !c.now().Before(g.readDue()):
		return true, c.recover(ctx, g)
	case c.pollDue(g):
		return true, c.poll(g)
	case r.Staged != nil:
		return true, c.sendStaged(ctx, g)
	case !r.Confirmed:
		return true, c.confirm(ctx, g)
	case r.Join != nil && r.Join.Entered && !r.Join.Answered && (r.Join.ShownIn == nil || *r.Join.ShownIn != g.mls.Epoch()):
		return true, c.showLink(g)
	case g.toRevoke() != nil && r.State == GroupActive:
		return true, c.revoke(ctx, g, g.toRevoke())
	case r.Withdraw && r.State == GroupActive && g.onlyOwn(c.account.rec.User):
		return true, c.withdrawAsk(ctx, g)
	case g.toRegister() != nil && r.State == GroupActive && g.identified():
		return true, c.registerAgain(ctx, g, g.toRegister())
	case c.missingDue(g):
		return true, c.askMissing(g)
	}
	if did, err := c.identifyUnmet(ctx, g); did || err != nil {
		return did, err
	}
	if o := g.nextOutgoing(); o != nil && !c.heldBack(g) {
		return true, c.sendMessage(ctx, g, o)
	}
	if g.rec.TellAll && c.now().Unix() >= g.rec.TellAllAt && g.rec.State == GroupActive && g.identified() {
		return true, c.change(g, func(tx Tx) error {
			g.rec.TellAll, g.rec.TellAllAt = false, 0
			return c.tellAll(tx, g)
		})
	}
	if did, err := c.duty(g); did || err != nil {
		return did, err
	}
	return c.runTask(ctx, g)
}

// enter makes or enters a group. What fails for good is dropped: there never was a group.
func (c *Client) enter(ctx context.Context, g *group, f func(context.Context, *group) error) error {
	err := f(ctx, g)
	if err == nil || !lasting(err) && !errors.Is(err, ErrBadInvitation) && !errors.Is(err, ErrBusy) {
		return err
	}
	if again, aerr := c.enterLater(g); again || aerr != nil {
		return errors.Join(err, aerr)
	}
	return errors.Join(err, c.dropGroup(g))
}

// recover reads the log after something was passed over.
func (c *Client) recover(ctx context.Context, g *group) error {
	before := g.rec.Last
	err := c.catchUp(ctx, g)
	switch {
	case errors.Is(err, errLater):
		return nil
	case errors.Is(err, errWithheld):
		return c.change(g, func(Tx) error {
			c.looked(g, g.rec.Last > before)
			return nil
		})
	case err != nil && !isFinal(err):
		return err
	}
	return c.change(g, func(tx Tx) error {
		g.rec.Behind = false
		c.looked(g, g.rec.Last > before)
		switch {
		case g.rec.State == GroupOver:
		case err != nil && g.rec.Again != nil: // the leaf is gone, so the log is not shown to it
			return c.over(tx, g, removedSentence, c.now().Unix())
		case problem.KindOf(err) == problem.Denied:
			g.rec.Behind = true
			return c.deny(tx, g)
		case err != nil:
			c.scheduleResync(g)
		default:
			g.rec.Again = nil // still a member: nobody added this client again
			g.rec.DeniedSince, g.rec.Denied = 0, 0
		}
		return nil
	})
}

// confirm tells the queue that this client wants the group (§10).
func (c *Client) confirm(ctx context.Context, g *group) error {
	_, err := call(ctx, c.channels.queue.Confirm, &mimimiv1.QueueGroupRequest{
		QueueId: c.account.rec.QueueID, GroupId: g.rec.GroupID, Signed: c.signedQueue(opQueueConfirm, newRequestID(), g.rec.GroupID),
	})
	if err != nil {
		return fmt.Errorf("confirm group: %w", err)
	}
	return c.change(g, func(Tx) error {
		g.rec.Confirmed = true
		return nil
	})
}

// identifyUnmet tries the leaves whose link key is known and whose domain could not be reached before.
func (c *Client) identifyUnmet(ctx context.Context, g *group) (bool, error) {
	unmet := false
	for _, r := range g.rec.Leaves {
		unmet = unmet || r.User == "" && !r.Bad && len(r.LinkKey) > 0
	}
	if !unmet {
		return false, nil
	}
	if err := c.meet(ctx, g.mls.Public().Members()); err != nil {
		return false, err
	}
	did := false
	err := c.change(g, func(tx Tx) error {
		for _, i := range g.indices() {
			r := g.rec.Leaves[i]
			if r.User != "" || r.Bad || len(r.LinkKey) == 0 {
				continue
			}
			key, err := mimimi.LinkKeyFrom(r.LinkKey)
			if err != nil {
				return errDamagedGroup
			}
			if err := c.learn(tx, g, i, key, timeOfEntry(r), false); err != nil {
				return err
			}
			did = did || r.User != "" || r.Bad
		}
		return nil
	})
	return did, err
}

// timeOfEntry is when a leaf's certificate must be valid: when this client saw it enter, else the start of its week.
func timeOfEntry(r *leafRecord) time.Time {
	if r.Entered == 0 {
		return timeZero
	}
	return timeOf(r.Entered)
}

// duty posts or stores what a member owes the group now: an answer for a joiner, a leaf's removal, a commit that takes up what is pending.
func (c *Client) duty(g *group) (bool, error) {
	if g.rec.State != GroupActive || c.now().Unix() < g.rec.QuietUntil {
		return false, nil
	}
	for _, i := range g.indices() {
		r := g.rec.Leaves[i]
		switch due, evict := c.evictionDue(g, i); {
		case r.Answer && r.User != "" && g.identified() && c.now().UnixNano() >= r.AnswerAt:
			return true, c.answer(g, i)
		case r.Asked != nil && r.User != "" && g.identified() && c.now().Unix() >= r.Asked.Due:
			return true, c.answerMissing(g, i)
		case evict && !c.now().Before(due) && !g.hasTask(taskEvict):
			t := newTask(taskEvict)
			t.Leaf, t.Pseudonym = i, r.ClientPseudonym
			return true, c.addTask(g, t)
		}
		if due, ok := c.banDue(g, i); ok && !c.now().Before(due) && !g.removing(r.User) {
			t := newTask(taskRemove)
			t.User, t.Duty = r.User, true
			return true, c.addTask(g, t)
		}
	}
	switch {
	case g.bansWaiting():
		return true, c.postBans(g)
	case g.rec.Respond && g.identified() && !g.posted(mimimi.EnvelopeConnectionResponse):
		return true, c.respond(g)
	}
	if due, ok := c.commitDue(g); ok && !c.now().Before(due) && !g.hasTask(taskCommit) {
		return true, c.addTask(g, newTask(taskCommit))
	}
	return c.refreshDue(g)
}

func (c *Client) addTask(g *group, t *task) error {
	return c.change(g, func(Tx) error {
		g.rec.Tasks = append(g.rec.Tasks, t)
		return nil
	})
}

// evictionDue says when this client removes an unidentified leaf: one that showed a false identity at its turn, another ten minutes after it came, at its
// turn. Leaves that were there first are not removed: others know more (§4).
func (c *Client) evictionDue(g *group, leaf uint32) (time.Time, bool) {
	r := g.rec.Leaves[leaf]
	switch {
	case r.User != "" || leaf == g.mls.OwnIndex():
		return time.Time{}, false
	case r.Entered == 0:
		return time.Time{}, false
	case r.Bad:
		return timeOf(r.Entered).Add(g.turn()), true
	}
	return timeOf(r.Entered).Add(unidentifiedFor + g.turn()), true
}

// commitDue says when this client commits what is pending: members before it go first, so that usually there is one commit and no race.
func (c *Client) commitDue(g *group) (time.Time, bool) {
	if !g.pendingRemovals() || !g.identified() {
		return time.Time{}, false
	}
	return timeOf(g.rec.PendingSince).Add(g.turn()), true
}

// nextDue is when a delayed duty of some group is due, zero if there is none.
func (c *Client) nextDue() (next time.Time, err error) {
	quiet := time.Time{}
	note := func(t time.Time) {
		if t.Before(quiet) {
			t = quiet
		}
		if next.IsZero() || t.Before(next) {
			next = t
		}
	}
	for _, due := range []func() (time.Time, error){c.approvalDue, c.bringDue, c.removalDue} {
		t, err := due()
		if err != nil {
			return next, err
		}
		if !t.IsZero() {
			note(t)
		}
	}
	ids, err := list[groupRecord](c.store, bucketGroups)
	if err != nil {
		return next, err
	}
	for _, r := range ids {
		if r.State == GroupOver || r.State == GroupLeaving || r.Refused {
			continue
		}
		g, err := c.group(r.ID)
		if errors.Is(err, ErrStore) {
			note(c.now()) // the next Sync ends it, or has it mended
			continue
		}
		if err != nil {
			return next, err
		}
		quiet = timeOf(g.rec.QuietUntil)
		if j := g.rec.Join; j != nil && !j.Entered && g.rec.QuietUntil != 0 {
			note(quiet)
		}
		if g.rec.Resync != nil {
			note(time.Unix(0, g.rec.Resync.Due))
		} else if g.rec.Behind {
			note(g.readDue())
		}
		if g.mls == nil || g.rec.State != GroupActive {
			continue
		}
		if t, ok := c.commitDue(g); ok {
			note(t)
		}
		if c.queueless(g) {
			note(timeOf(g.rec.RefreshAt))
		}
		if c.heldBack(g) {
			note(time.Unix(0, g.rec.SendAt))
		}
		for _, i := range g.indices() {
			if t, ok := c.evictionDue(g, i); ok {
				note(t)
			}
			if t, ok := c.banDue(g, i); ok {
				note(t)
			}
			if r := g.rec.Leaves[i]; r.Asked != nil && r.User != "" {
				note(timeOf(r.Asked.Due))
			} else if r.Answer && r.User != "" {
				note(time.Unix(0, r.AnswerAt))
			}
		}
	}
	return next, nil
}
