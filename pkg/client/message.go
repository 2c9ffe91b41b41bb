package client

import (
	"bytes"
	"context"
	"encoding/hex"
	"errors"
	"fmt"
	"slices"

	mimimiv1 "mimimi.example/api/mimimi/v1"
	"mimimi.example/pkg/mimimi"
	"mimimi.example/pkg/mls"
	"mimimi.example/pkg/problem"
)

// messageIDSize is the length of the random id that begins the body of a content envelope. It is the same for all members; by it a message that was
// sent twice, since its sender could not know better, is shown once.
const messageIDSize = 16

// outgoing is an application message from the call that made it until it has its place in the log. Its way: waiting (no Message), encrypted and
// stored (Message), taken by the hub (Sequence), seen in the log (gone). One that turns out not to count goes back to waiting (§9).
type outgoing struct {
	ID       string              `json:"id,omitempty"` // of content, hex
	Type     mimimi.EnvelopeType `json:"type"`
	Body     []byte              `json:"body"`
	OnlyIn   *uint64             `json:"only_in,omitempty"` // it makes sense in this epoch only, and is dropped with it
	Refused  *uint64             `json:"refused,omitempty"` // the epoch in which the hub does not take it
	Tries    int                 `json:"tries,omitempty"`
	Request  []byte              `json:"request,omitempty"`
	Epoch    uint64              `json:"epoch,omitempty"`
	Message  []byte              `json:"message,omitempty"`
	Proof    []byte              `json:"proof,omitempty"`
	Sequence uint64              `json:"sequence,omitempty"`
	Accepted int64               `json:"accepted,omitempty"`
}

// Send stores a message and sends it if it can; otherwise a later Sync does (for instance while a member is unidentified).
// A nil error means that the message is stored and will be sent. Its EventSent comes with its place in the group's order.
// Errors: ErrUnknownGroup, ErrGroupOver, ErrTooLarge, problem.Limited if too many wait.
func (c *Client) Send(ctx context.Context, group string, content []byte) (MessageID, error) {
	if len(content) > MaxMessage {
		return "", ErrTooLarge
	}
	id := newRequestID()
	err := c.lockedFor(ctx, func() error {
		c.channels.again.never()
		g, err := c.visible(group)
		if err != nil {
			return err
		}
		if err := g.usable(); err == ErrGroupOver || err == ErrRefused {
			return err
		}
		if len(g.rec.Outgoing) >= maxOutgoing {
			return problem.New(problem.Limited, "too many messages wait to be sent: sync first")
		}
		c.tap(TapContent, content)
		err = c.change(g, func(Tx) error {
			g.post(&outgoing{ID: hex.EncodeToString(id), Type: mimimi.EnvelopeContent, Body: append(slices.Clone(id), content...)})
			return nil
		})
		if err != nil {
			return err
		}
		// Stored is enough for success: what fails here is the next Sync's to repeat and report.
		_ = c.work(ctx, group)
		return nil
	})
	if err != nil {
		return "", err
	}
	return MessageID(hex.EncodeToString(id)), nil
}

// post adds a message to those that wait.
func (g *group) post(o *outgoing) { g.rec.Outgoing = append(g.rec.Outgoing, o) }

// nextOutgoing chooses what to send now. Control messages go first: what a joiner's link makes others do must not wait behind content. While a
// leaf is unidentified, nothing goes but the own link of one who comes in (§4).
func (g *group) nextOutgoing() *outgoing {
	var content *outgoing
	open := g.rec.State == GroupActive && g.identified()
	for _, o := range g.rec.Outgoing {
		switch {
		case o.Sequence != 0 || o.Refused != nil && *o.Refused == g.mls.Epoch():
		case o.Type == mimimi.EnvelopeLinkFromJoiner:
			return o
		case !open:
		case o.Type != mimimi.EnvelopeContent:
			return o
		case content == nil:
			content = o
		}
	}
	return content
}

// sendMessage encrypts a message, unless that is done already, stores it with the ratchet that it used up, and offers it to the hub.
func (c *Client) sendMessage(ctx context.Context, g *group, o *outgoing) error {
	if o.Tries >= maxCommitTries {
		return errors.Join(ErrBusy, c.change(g, func(Tx) error { o.Tries = 0; return nil }))
	}
	if o.Message == nil {
		if err := c.change(g, func(Tx) error { return g.encrypt(o) }); err != nil {
			return fmt.Errorf("encrypt message: %w", err)
		}
	}
	hub, err := c.hub(ctx, g.id.Domain())
	if err != nil {
		return err
	}
	res, err := call(ctx, hub.SendMessage, &mimimiv1.SendMessageRequest{
		RequestId: o.Request, GroupId: g.rec.GroupID, Epoch: o.Epoch, Message: o.Message, Signature: o.Proof,
	})
	switch {
	case err == nil:
		return c.change(g, func(Tx) error {
			o.Sequence, o.Accepted = res.Sequence, res.Accepted
			g.rec.HeldBack, g.rec.SendAt = 0, 0
			g.recount()
			return nil
		})
	case isStale(err):
		refused := false
		switch err := c.catchUpAs(ctx, g, nameless); {
		case problem.KindOf(err) == problem.Denied: // the queue brings the commit
			refused = true
		case err != nil:
			return err
		}
		if g.rec.State == GroupOver || !slices.Contains(g.rec.Outgoing, o) || o.Sequence != 0 {
			return nil
		}
		return c.change(g, func(Tx) error {
			if refused {
				o.refused()
			}
			o.again()
			return nil
		})
	case problem.KindOf(err) == problem.Limited: // the hub's own answer: a relay that has too much to do is Unavailable (sealedTo)
		return c.holdBack(g)
	case problem.KindOf(err) == problem.Denied:
		// A member may have given the hub a sender key that is not the epoch's; then the next epoch mends it (§9).
		return errors.Join(fmt.Errorf("send message: %w", err), c.change(g, func(Tx) error {
			o.refused()
			o.again()
			if !g.hasTask(taskCommit) {
				g.rec.Tasks = append(g.rec.Tasks, newTask(taskCommit))
			}
			return nil
		}))
	case isFinal(err):
		return errors.Join(fmt.Errorf("send message: %w", err), c.change(g, func(tx Tx) error {
			g.dropOutgoing(o)
			g.rec.Behind = g.rec.Behind || problem.KindOf(err) == problem.NotFound
			return c.warn(tx, g.rec.ID, "the group's hub refused a message for good: it was not sent")
		}))
	}
	return fmt.Errorf("send message: %w", err)
}

// encrypt makes the message of the present epoch, padded, with the epoch's own proof that a member sends it, and never says which (§9).
func (g *group) encrypt(o *outgoing) error {
	sender, err := mimimi.NewEpochSender(g.mls)
	if err != nil {
		return err
	}
	o.Message, err = g.mls.Encrypt(mimimi.Envelope{Type: o.Type, Body: o.Body}.Marshal(), nil, mimimi.PadTo)
	if err != nil {
		return err
	}
	o.Epoch, o.Request = g.mls.Epoch(), newRequestID()
	o.Proof = sender.SignMessage(g.id, o.Epoch, o.Message)
	o.Tries++
	return nil
}

// refused notes that the hub does not take the message in its epoch: it waits for the next one.
func (o *outgoing) refused() {
	epoch := o.Epoch
	o.Refused = &epoch
}

// again puts a message back to those that wait.
func (o *outgoing) again() {
	o.Message, o.Proof, o.Request, o.Epoch, o.Sequence, o.Accepted = nil, nil, nil, 0, 0, 0
}

func (g *group) dropOutgoing(o *outgoing) {
	g.rec.Outgoing = slices.DeleteFunc(g.rec.Outgoing, func(x *outgoing) bool { return x == o })
}

// recount goes through the messages with a known place after something changed: those that by what is known now do not count are sent again. A commit
// that makes a message of this client not count stands before it in the log, so it comes here in time.
func (g *group) recount() {
	epochs := g.epochs()
	for _, o := range slices.Clone(g.rec.Outgoing) {
		stale := o.Sequence > g.rec.Last && !epochs.Counts(o.Epoch, o.Accepted)
		switch {
		case o.OnlyIn != nil && *o.OnlyIn != g.mls.Epoch() && (o.Sequence == 0 || stale):
			g.dropOutgoing(o)
		case stale:
			o.again()
		}
	}
}

func (g *group) epochs() *mimimi.Epochs {
	n := len(g.rec.Epochs)
	return mimimi.NewEpochs(g.rec.Epochs[n-1].Epoch, g.rec.Epochs[:n-1]...)
}

// receiveMessage handles an application message at its place in the log, inside the transaction that moves Last past it.
func (c *Client) receiveMessage(tx Tx, g *group, d *mimimiv1.Delivery) error {
	for _, o := range g.rec.Outgoing {
		if o.Message != nil && bytes.Equal(o.Message, d.Message) {
			return c.receiveOwn(tx, g, o, d)
		}
	}
	if !g.epochs().Counts(d.Epoch, d.Accepted) {
		return nil // fanout drops these too
	}
	got, err := g.mls.Process(d.Message, mls.ProcessOptions{})
	switch {
	case errors.Is(err, mls.ErrReplayed):
		return nil // a second copy, by a repeat that the hub took for new
	case err != nil:
		return c.warn(tx, g.rec.ID, "a message could not be read")
	case got.Application == nil:
		return nil
	}
	g.hear(d.Epoch, got.Application)
	e, err := mimimi.ParseEnvelope(got.Application.Data)
	if err != nil {
		return c.warn(tx, g.rec.ID, "a message could not be read")
	}
	return c.receiveEnvelope(tx, g, d, got.Application.Sender, e)
}

// receiveOwn handles the own message's place in the log.
func (c *Client) receiveOwn(tx Tx, g *group, o *outgoing, d *mimimiv1.Delivery) error {
	if !g.epochs().Counts(d.Epoch, d.Accepted) {
		if o.OnlyIn != nil {
			g.dropOutgoing(o)
		} else {
			o.again()
		}
		return nil
	}
	g.dropOutgoing(o)
	switch o.Type {
	case mimimi.EnvelopeContent:
		if shown(tx, g.rec.ID, MessageID(o.ID)) {
			return nil
		}
		return c.addEvent(tx, eventRecord{Kind: EventSent, Time: d.Accepted, Group: g.rec.ID, User: c.account.rec.User, Message: MessageID(o.ID),
			Body: o.Body[messageIDSize:]})
	case mimimi.EnvelopeConnectionResponse:
		return c.responseSent(tx, g)
	case mimimi.EnvelopeBanList:
		if r := g.rec.Leaves[g.mls.OwnIndex()]; r != nil {
			return c.receiveBans(tx, g, r, o.Body, d.Accepted)
		}
	case mimimi.EnvelopeRotation:
		return c.rotationSent(tx, g, o.Body)
	}
	return nil
}

// receiveEnvelope handles what a member says. Control messages of a leaf that is not identified are dropped, but a joiner's link.
func (c *Client) receiveEnvelope(tx Tx, g *group, d *mimimiv1.Delivery, sender mls.Member, e mimimi.Envelope) error {
	from := g.rec.Leaves[sender.Index]
	if from != nil {
		cred, err := mimimi.ParsePseudonymousCredential(sender.Leaf.Credential())
		if err != nil || cred.ClientPseudonym.Wire() != from.ClientPseudonym {
			from = nil // the leaf of a past epoch, whose place another has now
		}
	}
	switch e.Type {
	case mimimi.EnvelopeContent:
		return c.receiveContent(tx, g, d, sender, from, e.Body)
	case mimimi.EnvelopeLinkFromJoiner:
		return c.receiveJoinerLink(tx, g, sender.Index, from, e.Body)
	case mimimi.EnvelopeLinksToJoiner:
		return c.receiveLinks(tx, g, sender.Index, from, e.Body)
	}
	if from == nil || from.User == "" {
		return nil
	}
	switch e.Type {
	case mimimi.EnvelopeJoinerLink:
		j, err := mimimi.ParseJoinerLink(e.Body)
		if err != nil {
			return nil
		}
		if r := g.rec.Leaves[j.Leaf]; r != nil { // by a link with all members' keys others may answer than the inviter
			r.Told, r.Shown = true, true
		}
		return c.learn(tx, g, j.Leaf, j.Key, timeOf(d.Accepted), false)
	case mimimi.EnvelopeInvitation:
		return g.receiveInvitation(from, e.Body, c.now())
	case mimimi.EnvelopeBanList:
		return c.receiveBans(tx, g, from, e.Body, d.Accepted)
	case mimimi.EnvelopeConnectionResponse:
		return c.receiveResponse(tx, g, from, e.Body)
	case mimimi.EnvelopeDeviceSync:
		return c.receiveSync(tx, g, from, e.Body, d.Accepted)
	case mimimi.EnvelopeRotation:
		return c.receiveRotation(tx, g, from, e.Body)
	}
	return nil // a type of a later version
}

// kindOf is how content of a leaf is shown: what another own client sent is the user's own.
func (c *Client) kindOf(from *leafRecord) EventKind {
	if from.User == c.account.rec.User {
		return EventSent
	}
	return EventMessage
}

// receiveContent shows content, or holds it back until its sender is identified.
func (c *Client) receiveContent(tx Tx, g *group, d *mimimiv1.Delivery, sender mls.Member, from *leafRecord, body []byte) error {
	if len(body) < messageIDSize {
		return c.warn(tx, g.rec.ID, "a message could not be read")
	}
	id, content := MessageID(hex.EncodeToString(body[:messageIDSize])), body[messageIDSize:]
	switch {
	case g.rec.hidden() || shown(tx, g.rec.ID, id):
		return nil
	case from != nil && from.User != "":
		return c.addEvent(tx, eventRecord{Kind: c.kindOf(from), Time: d.Accepted, Group: g.rec.ID, User: from.User, Message: id, Body: content})
	case from == nil || len(g.rec.Held) >= maxHeld:
		return c.warn(tx, g.rec.ID, "a message of a member who is not identified was dropped")
	}
	g.rec.Held = append(g.rec.Held, heldMessage{Leaf: sender.Index, Pseudonym: from.ClientPseudonym, Message: id, Body: content, Time: d.Accepted})
	return nil
}

// showHeld shows what was held back of leaves that are identified now, and drops what is of leaves that have gone.
func (c *Client) showHeld(tx Tx, g *group) error {
	var rest []heldMessage
	for _, h := range g.rec.Held {
		r := g.rec.Leaves[h.Leaf]
		switch {
		case r == nil || r.ClientPseudonym != h.Pseudonym:
			if err := c.warn(tx, g.rec.ID, "a message of a member who is not identified was dropped"); err != nil {
				return err
			}
		case r.User == "":
			rest = append(rest, h)
		case !shown(tx, g.rec.ID, h.Message):
			err := c.addEvent(tx, eventRecord{Kind: c.kindOf(r), Time: h.Time, Group: g.rec.ID, User: r.User, Message: h.Message, Body: h.Body})
			if err != nil {
				return err
			}
		}
	}
	g.rec.Held = rest
	return nil
}
