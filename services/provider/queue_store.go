package provider

import (
	"bytes"
	"context"
	"encoding/binary"
	"math"
	"time"

	"google.golang.org/protobuf/proto"

	mimimiv1 "mimimi.example/api/mimimi/v1"
	"mimimi.example/pkg/bus"
	"mimimi.example/pkg/mimimi"
	"mimimi.example/pkg/problem"
)

// Problems of queues. Somebody without the key gets the same answer for a queue that exists and one that does not.
var (
	errQueueAuth  = problem.New(problem.Denied, "no queue with this id and key, or the request's signature or minute is wrong")
	errQueueTaken = problem.New(problem.Denied, "the queue id is taken: choose a new random one")
)

// queues is the storage of queues: a record each in QUEUEMETA, entries in QUEUE, large bodies in BODY.
type queues struct {
	bus     *bus.Bus
	now     func() time.Time
	m       *metrics
	ledgers *ledgers
}

// record reads a queue's record. ok is false for a queue that does not exist or was deleted.
func (q *queues) record(ctx context.Context, id mimimi.QueueID) (r *mimimiv1.QueueRecord, ok bool, err error) {
	r, _, ok, err = get[mimimiv1.QueueRecord](ctx, q.bus, q.bus.QueueMeta(id.Bytes()))
	return r, ok && !r.GetDeleted() && !q.expired(r), err
}

// today is the day that is now, since 1970.
func (q *queues) today() int64 { return q.now().Unix() / int64(24*time.Hour/time.Second) }

// expired says whether a queue's owner has not read it for queueLife. It is then as if it did not exist, but that its owner can create it again.
func (q *queues) expired(r *mimimiv1.QueueRecord) bool {
	return r.GetReadDay() != 0 && q.today()-r.GetReadDay() > int64(queueLife/(24*time.Hour))
}

// touch notes that the owner reads the queue, once a day: a coarse time is all that expiry needs. It also renews the record's age on the bus.
func (q *queues) touch(ctx context.Context, id mimimi.QueueID) error {
	return update(ctx, q.bus, q.bus.QueueMeta(id.Bytes()), func(r *mimimiv1.QueueRecord, exists bool) (bool, error) {
		if !exists || r.GetDeleted() || r.GetReadDay() >= q.today() {
			return false, nil
		}
		r.ReadDay = q.today()
		return true, nil
	})
}

// create makes a queue. One compare-and-swap: it exists after a crash, or not. A repeat with the same key succeeds, and so
// does the owner of one that has expired: what groups it confirmed and refused is forgotten.
func (q *queues) create(ctx context.Context, id mimimi.QueueID, publicKey []byte) error {
	return update(ctx, q.bus, q.bus.QueueMeta(id.Bytes()), func(r *mimimiv1.QueueRecord, exists bool) (bool, error) {
		if exists && (r.GetDeleted() || !bytes.Equal(r.GetPublicKey(), publicKey)) {
			return false, errQueueTaken
		}
		renewed := !exists || q.expired(r)
		if renewed {
			r.PublicKey, r.Confirmed, r.Refused, r.ReadDay = publicKey, nil, nil, q.today()
		}
		return renewed, nil
	})
}

// mark records what the owner says about a group. One compare-and-swap.
func (q *queues) mark(ctx context.Context, id mimimi.QueueID, group []byte, s standing) error {
	return update(ctx, q.bus, q.bus.QueueMeta(id.Bytes()), func(r *mimimiv1.QueueRecord, exists bool) (bool, error) {
		if !exists || r.GetDeleted() {
			return false, errQueueAuth
		}
		return setStanding(r, groupMark(id, group), s)
	})
}

// ack removes everything up to and including a position. A repeat changes nothing.
func (q *queues) ack(ctx context.Context, id mimimi.QueueID, upTo uint64) error {
	if upTo == 0 { // to the bus 0 means everything
		return nil
	}
	upTo = min(upTo, math.MaxInt64) // no stream gets that far, and it can be counted up
	if err := q.bus.Purge(ctx, q.bus.Queue(id.Bytes()), upTo); err != nil {
		return err
	}
	if l := q.ledgers.known(queueKey(id)); l != nil {
		l.forget(upTo + 1)
		q.ledgers.release(l)
	}
	return nil
}

// remove deletes a queue: (1) its record says so, and from now on nothing is written to it; (2) its entries go. A crash between leaves
// entries that nobody can read and that age out, or that a repeat removes. A delivery that read the record before (1) may leave one too.
func (q *queues) remove(ctx context.Context, id mimimi.QueueID) error {
	err := update(ctx, q.bus, q.bus.QueueMeta(id.Bytes()), func(r *mimimiv1.QueueRecord, exists bool) (bool, error) {
		if !exists {
			return false, errQueueAuth
		}
		changed := !r.GetDeleted()
		r.Deleted, r.Confirmed, r.Refused = true, nil, nil
		return changed, nil
	})
	if err != nil {
		return err
	}
	return q.bus.Purge(ctx, q.bus.Queue(id.Bytes()), 0)
}

// read returns entries after a position with their bodies. more says that there are others.
func (q *queues) read(ctx context.Context, id mimimi.QueueID, after uint64, limit int) (entries []*mimimiv1.QueueEntry, more bool, err error) {
	msgs, more, err := q.bus.Read(ctx, q.bus.Queue(id.Bytes()), after, limit, readBytes)
	if err != nil {
		return nil, false, err
	}
	size := 0
	for _, m := range msgs {
		if size >= readBytes {
			return entries, true, nil
		}
		e, err := q.entry(ctx, m)
		if err != nil {
			return nil, false, err
		}
		q.m.read(ctx, q.now(), m.Time)
		size += proto.Size(e)
		if size > maxRelayBody-maxHeader && len(entries) > 0 {
			return entries, true, nil
		}
		entries = append(entries, e)
	}
	return entries, more, nil
}

// entry turns a stored item into what the client gets. A body that is no longer there, or is not what was stored, is a loss,
// and said as one: what comes after it can still be read. So is an item that cannot be read; its group is not known.
func (q *queues) entry(ctx context.Context, m *bus.Message) (*mimimiv1.QueueEntry, error) {
	item := new(mimimiv1.QueueItem)
	if err := proto.Unmarshal(m.Data, item); err != nil {
		q.m.Damaged.Add(ctx, 1)
		return &mimimiv1.QueueEntry{Position: m.Sequence, Lost: new(mimimiv1.LostNotice)}, nil
	}
	lost := &mimimiv1.QueueEntry{Position: m.Sequence, Lost: &mimimiv1.LostNotice{GroupId: item.GetGroupId()}}
	switch {
	case item.GetLost():
		return lost, nil
	case item.GetLowStock():
		return &mimimiv1.QueueEntry{Position: m.Sequence, LowStock: true}, nil
	}
	delivery := item.GetDelivery()
	if delivery == nil {
		body, err := q.bus.Last(ctx, q.bus.Body(item.GetBodyHash()))
		if isKind(err, problem.NotFound) {
			return lost, nil
		}
		if err != nil {
			return nil, err
		}
		delivery = new(mimimiv1.Delivery)
		if !bytes.Equal(digest(labelBody, body.Data), item.GetBodyHash()) || proto.Unmarshal(body.Data, delivery) != nil {
			q.m.Damaged.Add(ctx, 1)
			return lost, nil
		}
	}
	delivery.Recipients = []*mimimiv1.Recipient{item.GetRecipient()}
	return &mimimiv1.QueueEntry{Position: m.Sequence, Delivery: delivery}, nil
}

// last returns the position of a queue's newest entry, 0 if it is empty.
func (q *queues) last(ctx context.Context, id mimimi.QueueID) (uint64, error) {
	m, err := q.bus.Last(ctx, q.bus.Queue(id.Bytes()))
	if isKind(err, problem.NotFound) {
		return 0, nil
	}
	if err != nil {
		return 0, err
	}
	return m.Sequence, nil
}

// queueKey is a queue as a map's key.
func queueKey(id mimimi.QueueID) string { return string(id.Bytes()) }

// write puts one entry into a queue, if its owner lets the group in, within the group's quota. body stores what the entry refers to; it is not
// called for an entry that is not written.
//
// Writes, when the quota is full: (1) the body; (2) the notice; (3) the evictions; (4) the entry. A crash after (2) or (3) leaves a client that
// was told of a loss, never a loss without a word; the delivery is repeated, and a second notice does no harm. Without a full quota there are (1)
// and (4) only. If the storage is full the entry is a loss (lose).
func (q *queues) write(ctx context.Context, id mimimi.QueueID, item *mimimiv1.QueueItem, body func() error) error {
	record, ok, err := q.record(ctx, id)
	if err != nil {
		return err
	}
	if !ok {
		q.m.NoQueue.Add(ctx, 1)
		return nil
	}
	mark := groupMark(id, item.GetGroupId())
	s := standingOf(record, mark)
	if s == refused {
		q.m.Refused.Add(ctx, 1)
		return nil
	}
	l := q.ledgers.acquire(queueKey(id))
	defer q.ledgers.release(l)
	if err := q.sync(ctx, id, l); err != nil {
		return err
	}
	if l.has(string(mark), itemID(item)) {
		return nil // a repeat of what still waits
	}
	pooled := func() int { return l.pooled(record) }
	v := l.admit(string(mark), s, pooled)
	if !v.store || v.notice {
		// Full as far as is known: look whether the owner has taken something since.
		if err := q.trim(ctx, id, l); err != nil {
			return err
		}
		v = l.admit(string(mark), s, pooled)
	}
	if v.store {
		err = body()
	}
	if err == nil {
		err = q.store(ctx, id, l, string(mark), item, v)
	}
	if isKind(err, problem.Limited) {
		return q.lose(ctx, id, l, string(mark), item.GetGroupId())
	}
	return err
}

// notice tells a queue's owner that its stock of KeyPackages is low, unless such a notice waits there already: one says as much as many. It is
// repeat-safe, and dropped where there is no room, since clients look at their stock by themselves, too. Two replicas at once may write one each.
func (q *queues) notice(ctx context.Context, id mimimi.QueueID, noticeID []byte) error {
	_, ok, err := q.record(ctx, id)
	if err != nil {
		return err
	}
	if !ok {
		q.m.NoQueue.Add(ctx, 1)
		return nil
	}
	l := q.ledgers.acquire(queueKey(id))
	defer q.ledgers.release(l)
	if err := q.sync(ctx, id, l); err != nil {
		return err
	}
	if len(l.groups[lowStockMark]) > 0 || l.size >= queueEntries { // look whether the owner has taken it since
		if err := q.trim(ctx, id, l); err != nil {
			return err
		}
	}
	if len(l.groups[lowStockMark]) > 0 || l.size >= queueEntries {
		return nil
	}
	subject := q.bus.Queue(id.Bytes())
	err = q.publish(ctx, subject, l, lowStockMark, &mimimiv1.QueueItem{Id: noticeID, LowStock: true})
	if isKind(err, problem.Limited) {
		q.m.StorageFull.Add(ctx, 1)
		return nil
	}
	if err != nil {
		return err
	}
	q.m.LowStock.Add(ctx, 1)
	q.bus.Hint(subject)
	return nil
}

// lose drops an entry for which the storage has no room: waiting for room would hold back everybody's deliveries. The owner gets a notice, if
// there is room for that and none stands at the end of the group's entries.
func (q *queues) lose(ctx context.Context, id mimimi.QueueID, l *heldLedger, mark string, group []byte) error {
	q.m.StorageFull.Add(ctx, 1)
	subject := q.bus.Queue(id.Bytes())
	if !l.endsInNotice(mark) {
		err := q.publish(ctx, subject, l, mark, &mimimiv1.QueueItem{GroupId: group, Lost: true})
		if isKind(err, problem.Limited) {
			return nil
		}
		if err != nil {
			return err
		}
	}
	q.bus.Hint(subject)
	return nil
}

// store carries out a verdict.
func (q *queues) store(ctx context.Context, id mimimi.QueueID, l *heldLedger, mark string, item *mimimiv1.QueueItem, v verdict) error {
	subject := q.bus.Queue(id.Bytes())
	if v.notice {
		notice := &mimimiv1.QueueItem{GroupId: item.GetGroupId(), Lost: true}
		if err := q.publish(ctx, subject, l, mark, notice); err != nil {
			return err
		}
	}
	for _, sequence := range v.evict {
		if _, err := q.bus.Remove(ctx, subject, sequence); err != nil {
			return err
		}
		q.m.Evicted.Add(ctx, 1)
	}
	l.remove(mark, v.evict)
	if !v.store {
		q.m.PoolFull.Add(ctx, 1)
	} else if err := q.publish(ctx, subject, l, mark, item); err != nil {
		return err
	} else {
		q.m.Delivered.Add(ctx, 1)
	}
	if v.store || v.notice {
		q.bus.Hint(subject)
	}
	return nil
}

// publish appends an item and notes it in the ledger.
func (q *queues) publish(ctx context.Context, s bus.Subject, l *heldLedger, mark string, item *mimimiv1.QueueItem) error {
	data, err := proto.Marshal(item)
	if err != nil {
		return err
	}
	var o bus.PublishOptions
	if len(item.GetId()) > 0 {
		o.ID = messageID(item.GetId())
	}
	sequence, err := q.bus.Publish(ctx, s, data, o)
	if err != nil {
		return err
	}
	l.add(mark, waiting{sequence: sequence, id: itemID(item)})
	return nil
}

// itemID is the ledger's short form of an item's id: 0 for a notice, and for nothing else.
func itemID(item *mimimiv1.QueueItem) uint64 {
	if len(item.GetId()) < 8 {
		return 0
	}
	return max(1, binary.BigEndian.Uint64(item.GetId()))
}

// trim forgets what the owner has acknowledged.
func (q *queues) trim(ctx context.Context, id mimimi.QueueID, l *heldLedger) error {
	msgs, _, err := q.bus.Read(ctx, q.bus.Queue(id.Bytes()), 0, 1, 1)
	if err != nil {
		return err
	}
	if len(msgs) > 0 {
		l.forget(msgs[0].Sequence)
		return nil
	}
	// Empty, or the read is behind what was just written: the leader knows.
	last, err := q.last(ctx, id)
	if err == nil && last == 0 {
		l.forget(math.MaxUint64)
	}
	return err
}

// sync compares the ledger with the stream, if that was not done for a while: what other replicas wrote is added.
func (q *queues) sync(ctx context.Context, id mimimi.QueueID, l *heldLedger) error {
	if !l.synced.IsZero() && q.now().Sub(l.synced) < ledgerSync {
		return nil
	}
	if err := q.trim(ctx, id, l); err != nil {
		return err
	}
	for more := true; more; {
		var msgs []*bus.Message
		var err error
		if msgs, more, err = q.bus.Read(ctx, q.bus.Queue(id.Bytes()), l.scanned, readEntries, readBytes); err != nil {
			return err
		}
		for _, m := range msgs {
			item := new(mimimiv1.QueueItem)
			if err := proto.Unmarshal(m.Data, item); err == nil { // what cannot be read counts for no group; its owner reads a loss
				l.add(markOf(id, item), waiting{sequence: m.Sequence, id: itemID(item)})
			}
			l.scanned = m.Sequence
		}
		more = more && len(msgs) > 0
	}
	l.synced = q.now()
	return nil
}
