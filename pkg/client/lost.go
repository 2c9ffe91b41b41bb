package client

import (
	"errors"
	"slices"

	mimimiv1 "mimimi.example/api/mimimi/v1"
)

// What a client does that cannot go on in a group (protocol.md §7). If only the ratchet state is gone it enters anew by itself (resync). If what that takes is gone too, it is
// the user's other clients that mend it: this one makes a KeyPackage for the group, as a new client does, and says that it takes the place of the leaf that is there. One
// of the others removes that leaf, and then adds the KeyPackage, in two commits. Where no other client of the user is in the group nobody can: a member has to remove the
// user, whose leaf is of no use, and add it again. The events say which it is.

const (
	lostSentence   = "this device lost its keys for the group"
	unenterable    = "the group could not be entered anew"
	inconsistent   = "the group's hub shows a group that does not follow from its log"
	tooLongAway    = "this device was away for longer than the group's log goes back"
	backSentence   = ": your other devices take its old place out and add it again"
	aloneSentence  = ": no other device of yours can add it again, so a member has to remove you from the group and add you"
	lostPeer       = "the connection with this contact was lost on this device: connect again"
	cutOffSentence = "this device cannot reach your other devices any more: remove it at one of them and link it again"
	damagedRecord  = "a group is damaged in this client's store"
	maxLostAtOnce  = 1 // groups whose loss is told at once; that of others in the same time is spread (§8)
)

// loseGroup ends a group that cannot be loaded, and has the user's other clients bring this one back. id is the group's, nil if the caller does not know it.
func (c *Client) loseGroup(local string, id []byte) error {
	delete(c.groups, local) // it may be ahead of the file
	rec, err := c.readable(local)
	if err != nil {
		return err
	}
	if rec == nil {
		return c.loseRecord(local, id)
	}
	g := &group{rec: rec}
	return c.change(g, func(tx Tx) error { return c.lose(tx, g, lostSentence) })
}

// readable reads a group's record with as much of its roster as can be read, nil if not even the record can.
func (c *Client) readable(local string) (*groupRecord, error) {
	rec, found, err := get[groupRecord](c.store, bucketGroups, []byte(local))
	if errors.Is(err, ErrStore) || err == nil && !found {
		return nil, nil
	}
	if err != nil {
		return nil, err
	}
	err = c.view(func(tx Tx) error {
		_, _, err := readRoster(tx, rec)
		return err
	})
	if errors.Is(err, ErrStore) {
		rec.Leaves, err = make(map[uint32]*leafRecord), nil
	}
	return rec, err
}

// loseRecord is loseGroup where nothing at all of the group can be read: all that is left of it is its id, and the user's other clients are asked what it is.
func (c *Client) loseRecord(local string, id []byte) error {
	err := c.view(func(tx Tx) error {
		return tx.Each(bucketGroupIDs, nil, func(k, v []byte) error {
			if string(v) == local {
				id = slices.Clone(k)
			}
			return nil
		})
	})
	if err != nil {
		return err
	}
	return c.update(func(tx Tx) error {
		for _, b := range []string{bucketGroups, bucketRosters, bucketPublics, bucketRatchets, bucketLeaves} {
			if err := tx.Delete(b, []byte(local)); err != nil {
				return err
			}
		}
		if id == nil {
			return c.warn(tx, "", damagedRecord)
		}
		if err := tx.Delete(bucketGroupIDs, id); err != nil {
			return err
		}
		if slices.Equal(id, c.account.rec.DeviceGroup) {
			return c.cutOff(tx, nil)
		}
		if len(c.own) <= 1 {
			return c.warn(tx, "", damagedRecord+aloneSentence)
		}
		ask := &mimimiv1.DeviceSync{Change: &mimimiv1.DeviceSync_Ask{Ask: true}}
		return errors.Join(c.bringBack(tx, &sharedGroupRecord{GroupID: id}), c.tellDevices(tx, ask), c.warn(tx, "", damagedRecord+backSentence))
	})
}

// lose ends a group that this client cannot enter any more, and says why and what follows. The caller stores the group.
func (c *Client) lose(tx Tx, g *group, why string) error {
	if g.rec.Devices || g.rec.State == GroupLeaving {
		return c.over(tx, g, leftSentence, 0)
	}
	back := len(c.own) > 1 && g.rec.State == GroupActive
	what := why + aloneSentence
	var errs []error
	if back {
		what = why + backSentence
		r := &sharedGroupRecord{GroupID: g.rec.GroupID, Name: g.rec.Name, Number: g.rec.NameNumber, Peer: g.rec.Peer, Made: g.rec.Made}
		if s := g.rec.shared(c.account.rec.Client); s != nil {
			r.Pseudonym = s.UserPseudonym
		} else {
			errs = append(errs, c.tellDevices(tx, &mimimiv1.DeviceSync{Change: &mimimiv1.DeviceSync_Ask{Ask: true}}))
		}
		errs = append(errs, c.bringBack(tx, r))
	}
	return errors.Join(errors.Join(errs...), c.losePeer(tx, g, back), c.over(tx, g, what, 0))
}

// bringBack has this client hand a KeyPackage for a group to the user's others, in place of the leaf that it has there. The first lost group is handed at once; where several are
// lost within the same time, the others follow at times of their own, since a burst would link them.
func (c *Client) bringBack(tx Tx, r *sharedGroupRecord) error {
	known, found, err := read[sharedGroupRecord](tx, bucketShared, r.GroupID)
	if err != nil || found && known.Left != 0 {
		return err
	}
	at, lost := c.now(), 0
	err = each(tx, bucketShared, func(_ []byte, o *sharedGroupRecord) error {
		if o.Lost != 0 && at.Sub(timeOf(o.Lost)) < spreadOver {
			lost++
		}
		return nil
	})
	if err != nil {
		return err
	}
	r.Due, r.Lost = at.Unix(), at.Unix()
	if lost >= maxLostAtOnce {
		r.Due = at.Add(c.spread()).Unix()
	}
	return write(tx, bucketShared, r.GroupID, r)
}

// losePeer notes of a connection group's contact that the group is lost here. back says that another client brings this one into it again.
func (c *Client) losePeer(tx Tx, g *group, back bool) error {
	if g.rec.Peer == "" {
		return nil
	}
	k, found, err := read[contactRecord](tx, bucketContacts, []byte(g.rec.Peer))
	if err != nil || !found || k.Group != g.rec.ID {
		return err
	}
	if !back {
		if k.State != ContactConnected {
			return nil
		}
		return c.addEvent(tx, eventRecord{Kind: EventWarning, User: k.User, Text: lostPeer})
	}
	k.Group, k.SharedGroup = "", g.rec.GroupID
	return write(tx, bucketContacts, []byte(k.User), k)
}

// cutOff takes note that this client is out of the group of the user's clients though it was not removed: it cannot tell them anything, nor be told. leaves are those of
// the group, nil if they are not known. If all were its own, there is nobody to be cut off from.
func (c *Client) cutOff(tx Tx, leaves map[uint32]*leafRecord) error {
	r := c.account.rec
	if r.Removed || r.Deleting != deleteNothing || r.CutOff {
		return nil
	}
	others := len(leaves) == 0
	for _, l := range leaves {
		others = others || l.Client != r.Client
	}
	if !others {
		return c.putAccount(tx, func(r *accountRecord) { r.DeviceGroup = nil })
	}
	return errors.Join(
		c.putAccount(tx, func(r *accountRecord) { r.CutOff = true }),
		c.addEvent(tx, eventRecord{Kind: EventCutOff, Device: r.Client, Text: cutOffSentence}),
	)
}

// linked is complete for what the user's other clients have to be told of. Errors: ErrCutOff.
func (c *Client) linked() error {
	if err := c.complete(); err != nil {
		return err
	}
	if c.account.rec.CutOff {
		return ErrCutOff
	}
	return nil
}
