package provider

import (
	"context"
	"log/slog"
	"time"

	"golang.org/x/sync/errgroup"
	"google.golang.org/protobuf/proto"

	mimimiv1 "mimimi.example/api/mimimi/v1"
	"mimimi.example/pkg/bus"
	"mimimi.example/pkg/mimimi"
	"mimimi.example/pkg/mls"
	"mimimi.example/pkg/problem"
)

// Problems of deliveries.
var (
	errDelivery   = problem.New(problem.Invalid, "a delivery needs an id, a group, a kind, a message, and at most 1,000 recipients")
	errForeignHub = problem.New(problem.Invalid, "a domain delivers for groups of its own hub only")
	errOutbox     = problem.New(problem.Invalid, "an outbox entry is not for the domain of its subject")
)

// checkDelivery checks form and origin of a delivery that a domain hands over.
func checkDelivery(o *mimimiv1.OutboundDelivery, source string) error {
	d := o.GetDelivery()
	group, err := mimimi.ParseGroupID(d.GetGroupId())
	switch {
	case err != nil, len(o.GetId()) == 0, len(o.GetId()) > maxDeliveryID, len(d.GetMessage()) == 0, len(d.GetRecipients()) > maxRecipients,
		d.GetKind() <= mimimiv1.Delivery_KIND_UNSPECIFIED, d.GetKind() > mimimiv1.Delivery_KIND_WELCOME:
		return errDelivery
	case group.Domain() != source:
		return errForeignHub
	}
	return nil
}

// deliverer writes deliveries to the queues of its own domain's clients, and hands those for other domains over.
type deliverer struct {
	domain string
	bus    *bus.Bus
	queues *queues
	peers  *peers
	keys   map[uint32]mls.HPKEPrivateKey
	m      *metrics
	log    *slog.Logger
}

// deliver writes one delivery to every recipient's queue. source is the domain that it comes from.
//
// Writes: (1) a large body, under its hash; (2) one entry per recipient, in any order. A crash after any of them repeats the delivery: the body is
// written again, an entry that is there is not. Nothing is acknowledged before all are stored.
func (d *deliverer) deliver(ctx context.Context, source string, o *mimimiv1.OutboundDelivery) error {
	item, err := d.body(ctx, o.GetDelivery())
	if err != nil {
		return err
	}
	g, ctx := errgroup.WithContext(ctx)
	g.SetLimit(queueWriters)
	for _, r := range o.GetDelivery().GetRecipients() {
		g.Go(func() error {
			pseudonym, err := mimimi.ParseClientPseudonym(r.GetClientPseudonym())
			if err != nil || len(r.GetEncryptedQueueId()) > maxSealedQueueID {
				d.m.NotOpened.Add(ctx, 1)
				return nil
			}
			id, err := mimimi.OpenQueueID(d.key, d.domain, pseudonym, r.GetEncryptedQueueId())
			if err != nil { // a member put something else into its leaf: its own loss
				d.m.NotOpened.Add(ctx, 1)
				return nil
			}
			own := &mimimiv1.QueueItem{GroupId: item.GetGroupId(), Delivery: item.GetDelivery(), BodyHash: item.GetBodyHash(), Recipient: r}
			own.Id = digest(labelDelivery, []byte(source), o.GetId(), id.Bytes(), []byte(r.GetClientPseudonym()))[:16]
			return d.queues.write(ctx, id, own)
		})
	}
	return g.Wait()
}

func (d *deliverer) key(id uint32) (mls.HPKEPrivateKey, bool) {
	k, ok := d.keys[id]
	return k, ok
}

// body returns what all recipients' entries have in common, and stores it first if it is large.
func (d *deliverer) body(ctx context.Context, delivery *mimimiv1.Delivery) (*mimimiv1.QueueItem, error) {
	shared := &mimimiv1.Delivery{
		GroupId: delivery.GetGroupId(), Sequence: delivery.GetSequence(), Previous: delivery.GetPrevious(), Accepted: delivery.GetAccepted(),
		Kind: delivery.GetKind(), Message: delivery.GetMessage(), Epoch: delivery.GetEpoch(),
		EpochSenderKey: delivery.GetEpochSenderKey(), ExternalPub: delivery.GetExternalPub(),
	}
	if proto.Size(shared) <= inlineBody {
		return &mimimiv1.QueueItem{GroupId: shared.GetGroupId(), Delivery: shared}, nil
	}
	data, err := proto.MarshalOptions{Deterministic: true}.Marshal(shared)
	if err != nil {
		return nil, err
	}
	hash := digest(labelBody, data)
	if _, err := d.bus.Publish(ctx, d.bus.Body(hash), data, bus.PublishOptions{ID: messageID(hash)}); err != nil {
		return nil, err
	}
	return &mimimiv1.QueueItem{GroupId: shared.GetGroupId(), BodyHash: hash}, nil
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
	handle := d.notify
	if domain == d.domain {
		handle = d.own
	}
	for ctx.Err() == nil {
		err := d.work(ctx, domain, handle)
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

func (d *deliverer) work(ctx context.Context, domain string, handle func(context.Context, string, *mimimiv1.OutboundDelivery) error) error {
	c, err := d.bus.OutboxConsumer(ctx, domain)
	if err != nil {
		return err
	}
	return d.bus.Consume(ctx, c, func(ctx context.Context, m *bus.Message) error {
		o, err := outboxEntry(m, domain)
		if err != nil {
			return err
		}
		return handle(ctx, domain, o)
	})
}

// own delivers within the domain.
func (d *deliverer) own(ctx context.Context, domain string, o *mimimiv1.OutboundDelivery) error {
	if err := checkDelivery(o, domain); err != nil {
		return err
	}
	return d.deliver(ctx, domain, o)
}

// notify hands one delivery to its domain's provider. It is repeated in place until that has stored it, except if it says that the delivery is invalid.
func (d *deliverer) notify(ctx context.Context, domain string, o *mimimiv1.OutboundDelivery) error {
	p, err := d.peers.get(domain)
	if err != nil {
		return errPeerDown // a peer that was known: its file may come back
	}
	ctx, cancel := context.WithTimeout(ctx, notifyTimeout)
	defer cancel()
	if _, err := p.service.Notify(ctx, &mimimiv1.NotifyRequest{Deliveries: []*mimimiv1.OutboundDelivery{o}}); err != nil {
		d.m.NotifyFailed.Add(ctx, 1)
		return peerProblem(err)
	}
	d.m.Notified.Add(ctx, 1)
	return nil
}
