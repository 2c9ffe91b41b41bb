package provider

import (
	"context"
	"errors"
	"log/slog"
	"sync"
	"sync/atomic"
	"time"

	"golang.org/x/sync/errgroup"
	"google.golang.org/protobuf/proto"

	mimimiv1 "mimimi.example/api/mimimi/v1"
	"mimimi.example/pkg/bus"
	"mimimi.example/pkg/mimimi"
	"mimimi.example/pkg/problem"
)

// Problems of deliveries.
var (
	errDelivery   = problem.New(problem.Invalid, "a delivery needs an id, a group, a kind, a message, and 1 to 1,000 recipients")
	errLarge      = problem.New(problem.Invalid, "a delivery is larger than its kind allows: 272 KiB, and 5.75 MiB for a commit or a Welcome")
	errPanicked   = problem.New(problem.Internal, "the handling of one recipient failed")
	errForeignHub = problem.New(problem.Invalid, "a domain delivers for groups of its own hub only")
	errNotice     = problem.New(problem.Invalid, "a low-stock notice holds an id and 1 to 16 recipients, nothing else")
	errOutbox     = problem.New(problem.Invalid, "an outbox entry is not for the domain of its subject")
)

// checkDelivery checks form and origin of a delivery that a domain hands over.
func checkDelivery(o *mimimiv1.OutboundDelivery, source string) error {
	d := o.GetDelivery()
	group, err := mimimi.ParseGroupID(d.GetGroupId())
	switch {
	case err != nil, len(o.GetId()) == 0, len(o.GetId()) > maxDeliveryID, len(d.GetMessage()) == 0,
		len(d.GetRecipients()) == 0, len(d.GetRecipients()) > maxRecipients,
		d.GetKind() <= mimimiv1.Delivery_KIND_UNSPECIFIED, d.GetKind() > mimimiv1.Delivery_KIND_WELCOME:
		return errDelivery
	case group.Domain() != source:
		return errForeignHub
	case len(d.GetMessage())+len(d.GetEpochSenderKey())+len(d.GetExternalPub()) > maxContent(d.GetKind()):
		return errLarge
	}
	return nil
}

// checkNotice checks that a notice of the own KeyPackage store holds what it must and nothing else, so that nothing else can be told by it.
func checkNotice(o *mimimiv1.OutboundDelivery, _ string) error {
	d := o.GetDelivery()
	bare := &mimimiv1.Delivery{Kind: mimimiv1.Delivery_KIND_LOW_STOCK, Recipients: d.GetRecipients()}
	n := len(d.GetRecipients())
	if len(o.GetId()) == 0 || len(o.GetId()) > maxDeliveryID || n == 0 || n > maxNoticeRecipients || !proto.Equal(d, bare) {
		return errNotice
	}
	return nil
}

// maxContent is the most that a delivery of a kind holds.
func maxContent(k mimimiv1.Delivery_Kind) int {
	if k == mimimiv1.Delivery_KIND_COMMIT || k == mimimiv1.Delivery_KIND_WELCOME {
		return maxLargeDelivery
	}
	return maxSmallDelivery
}

// deliverer writes deliveries to the queues of its own domain's clients, and hands those for other domains over.
type deliverer struct {
	domain string
	bus    *bus.Bus
	queues *queues
	peers  *peers
	keys   *queueKeys
	opened opened
	m      *metrics
	log    *slog.Logger
}

// deliver writes one delivery to every recipient's queue that takes it. source is the domain that it comes from.
//
// Writes: (1) a large body, under its hash, once the first queue takes the entry: what nobody takes is not stored; (2) one entry per recipient, in
// any order. A crash after any of them repeats the delivery: the body is written again, an entry that is there is not. Nothing is acknowledged
// before all are stored.
//
// A recipient whose queue cannot be read is left out and counted. What fails otherwise, as problem.Internal, is returned after all other
// recipients have theirs; problem.Unavailable ends it at once.
func (d *deliverer) deliver(ctx context.Context, source string, o *mimimiv1.OutboundDelivery) error {
	item, data, err := common(o.GetDelivery())
	if err != nil {
		return err
	}
	g, ctx := errgroup.WithContext(ctx)
	g.SetLimit(queueWriters)
	body := sync.OnceValue(func() error { return d.storeBody(ctx, item.GetBodyHash(), data) })
	var failed atomic.Pointer[error]
	for _, r := range o.GetDelivery().GetRecipients() {
		g.Go(func() error {
			err := d.deliverTo(ctx, source, o.GetId(), item, r, body)
			switch {
			case errors.Is(err, errCorrupt):
				d.m.Damaged.Add(ctx, 1)
				return nil
			case isKind(err, problem.Internal):
				failed.CompareAndSwap(nil, &err)
				return nil
			}
			return err
		})
	}
	if err := g.Wait(); err != nil {
		return err
	}
	if err := failed.Load(); err != nil {
		return *err
	}
	d.m.delivered(ctx, d.queues.now(), o.GetDelivery().GetAccepted())
	return nil
}

// deliverTo writes one recipient's entry. A panic is an internal error: it must not end the process, which would meet the same delivery again.
func (d *deliverer) deliverTo(ctx context.Context, source string, delivery []byte, item *mimimiv1.QueueItem, r *mimimiv1.Recipient, body func() error) (err error) {
	defer func() {
		if recover() != nil { // its value may hold anything
			d.m.Damaged.Add(ctx, 1)
			d.log.ErrorContext(ctx, "the handling of a recipient panicked")
			err = errPanicked
		}
	}()
	pseudonym, err := mimimi.ParseClientPseudonym(r.GetClientPseudonym())
	if err != nil || len(r.GetEncryptedQueueId()) > maxSealedQueueID {
		d.m.NotOpened.Add(ctx, 1)
		return nil
	}
	id, err := d.opened.queue(pseudonym, r.GetEncryptedQueueId(), func() (mimimi.QueueID, error) {
		return mimimi.OpenQueueID(d.keys.find, d.domain, pseudonym, r.GetEncryptedQueueId())
	})
	if err != nil { // a member put something else into its leaf: its own loss
		d.m.NotOpened.Add(ctx, 1)
		return nil
	}
	own := &mimimiv1.QueueItem{GroupId: item.GetGroupId(), Delivery: item.GetDelivery(), BodyHash: item.GetBodyHash(), Recipient: r}
	own.Id = digest(labelDelivery, []byte(source), delivery, id.Bytes(), []byte(r.GetClientPseudonym()))[:16]
	if item.GetLowStock() {
		return d.queues.notice(ctx, id, own.GetId())
	}
	return d.queues.write(ctx, id, own, body)
}

// common returns what all recipients' entries have in common. If it is large, the entry refers to a body of its own, data; otherwise data is nil.
func common(delivery *mimimiv1.Delivery) (item *mimimiv1.QueueItem, data []byte, err error) {
	if delivery.GetKind() == mimimiv1.Delivery_KIND_LOW_STOCK {
		return &mimimiv1.QueueItem{LowStock: true}, nil, nil
	}
	shared := &mimimiv1.Delivery{
		GroupId: delivery.GetGroupId(), Sequence: delivery.GetSequence(), Previous: delivery.GetPrevious(), Accepted: delivery.GetAccepted(),
		Kind: delivery.GetKind(), Message: delivery.GetMessage(), Epoch: delivery.GetEpoch(),
		EpochSenderKey: delivery.GetEpochSenderKey(), ExternalPub: delivery.GetExternalPub(),
	}
	if proto.Size(shared) <= inlineBody {
		return &mimimiv1.QueueItem{GroupId: shared.GetGroupId(), Delivery: shared}, nil, nil
	}
	if data, err = (proto.MarshalOptions{Deterministic: true}).Marshal(shared); err != nil {
		return nil, nil, err
	}
	return &mimimiv1.QueueItem{GroupId: shared.GetGroupId(), BodyHash: digest(labelBody, data)}, data, nil
}

// storeBody stores a body under its hash, if there is one.
func (d *deliverer) storeBody(ctx context.Context, hash, data []byte) error {
	if data == nil {
		return nil
	}
	_, err := d.bus.Publish(ctx, d.bus.Body(hash), data, bus.PublishOptions{ID: messageID(hash)})
	return err
}

// outboxEntry reads an entry that is for a domain.
func outboxEntry(m *bus.Message, domain string) (*mimimiv1.OutboundDelivery, error) {
	e := new(mimimiv1.OutboxEntry)
	if proto.Unmarshal(m.Data, e) != nil || e.GetDomain() != domain {
		return nil, errOutbox
	}
	return e.GetDelivery(), nil
}

// consume works off the outbox for one domain until ctx is done. Nothing else waits when that domain is down.
func (d *deliverer) consume(ctx context.Context, domain string) {
	work := d.workAway
	if domain == d.domain {
		work = d.workOwn
	}
	for ctx.Err() == nil {
		err := work(ctx, domain)
		if err == nil || ctx.Err() != nil {
			return
		}
		d.log.WarnContext(ctx, "an outbox consumer stopped; it is started again", slog.Int("kind", int(problem.KindOf(err))))
		select {
		case <-ctx.Done():
		case <-time.After(restartPause):
		}
	}
}

// workOwn works off the outbox for the own domain. Order is promised within a group, so groups go side by side.
func (d *deliverer) workOwn(ctx context.Context, domain string) error {
	c, err := d.bus.OutboxConsumer(ctx, domain)
	if err != nil {
		return err
	}
	c = c.By(func(m *bus.Message) string {
		o, err := outboxEntry(m, domain)
		if err != nil {
			return "" // handle says what is wrong
		}
		return string(o.GetDelivery().GetGroupId())
	})
	return d.bus.Consume(ctx, c, func(ctx context.Context, m *bus.Message) error {
		o, err := outboxEntry(m, domain)
		if err != nil {
			return err
		}
		return d.own(ctx, domain, o)
	})
}

// workAway works off the outbox for another domain: one call at a time, since the peer may be down, in the order of the outbox, each with as much as waits. A call is
// the way to the peer and back, and all groups of a domain share it.
func (d *deliverer) workAway(ctx context.Context, domain string) error {
	c, err := d.bus.OutboxConsumer(ctx, domain)
	if err != nil {
		return err
	}
	return d.bus.ConsumeTogether(ctx, c, oneNotify, func(ctx context.Context, ms []*bus.Message) error {
		deliveries := make([]*mimimiv1.OutboundDelivery, len(ms))
		for i, m := range ms {
			o, err := outboxEntry(m, domain)
			if err != nil {
				return err
			}
			deliveries[i] = o
		}
		return d.notify(ctx, domain, deliveries...)
	})
}

// oneNotify says how many outbox entries go into one Notify.
func oneNotify(waiting []*bus.Message) int {
	size := 0
	for i, m := range waiting {
		if size += len(m.Data); i == maxDeliveries || size > notifyBytes {
			return i
		}
	}
	return len(waiting)
}

// own delivers within the domain. Only there come notices of the KeyPackage store from: its own domain's outbox takes them, and no other domain's word.
func (d *deliverer) own(ctx context.Context, domain string, o *mimimiv1.OutboundDelivery) error {
	check := checkDelivery
	if o.GetDelivery().GetKind() == mimimiv1.Delivery_KIND_LOW_STOCK {
		check = checkNotice
	}
	if err := check(o, domain); err != nil {
		return err
	}
	return d.deliver(ctx, domain, o)
}

// notify hands deliveries to their domain's provider, which has stored all of them when it says so, and may have stored some when it does not. A single one is repeated
// in place until it is stored, except if the peer says that it is invalid, or again and again that it failed at it.
func (d *deliverer) notify(ctx context.Context, domain string, deliveries ...*mimimiv1.OutboundDelivery) error {
	p, err := d.peers.get(domain)
	if err != nil {
		return errPeerDown // a peer that was known: its file may come back
	}
	ctx, cancel := context.WithTimeout(ctx, notifyTimeout)
	defer cancel()
	if _, err := p.service.Notify(ctx, &mimimiv1.NotifyRequest{Deliveries: deliveries}); err != nil {
		d.m.NotifyFailed.Add(ctx, 1)
		return notifyProblem(err)
	}
	d.m.Notified.Add(ctx, int64(len(deliveries)))
	return nil
}
