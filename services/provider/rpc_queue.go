package provider

import (
	"context"
	"crypto/ed25519"
	"encoding/binary"
	"sync"
	"time"

	"connectrpc.com/connect"

	mimimiv1 "mimimi.example/api/mimimi/v1"
	"mimimi.example/pkg/mimimi"
	"mimimi.example/pkg/problem"
)

// queueSide serves QueueService on the anonymous listener. All it knows of a caller is that it holds a queue's key.
type queueSide struct {
	queues   *queues
	redeemer mimimi.Redeemer
	now      func() time.Time
	m        *metrics
	watches  *watches
}

// Problems of queue requests.
var (
	errQueueID    = problem.New(problem.Invalid, "queue_id must be 32 bytes")
	errQueueKey   = problem.New(problem.Invalid, "public_key must be 32 bytes")
	errGroupID    = problem.New(problem.Invalid, "group_id must be mimi://domain/g/uuid")
	errReadLimit  = problem.New(problem.Invalid, "limit must be at most 256")
	errWatchLimit = problem.New(problem.Limited, "too many open hint streams: close one, or read without one")
	errStopping   = problem.New(problem.Unavailable, "the service is stopping: try again")
)

// verifyQueue checks a request's proof under a key.
func verifyQueue(key []byte, operation string, id mimimi.QueueID, s *mimimiv1.Signed, body []byte, now time.Time) error {
	requestID, minute, err := signed(s)
	if err != nil {
		return err
	}
	request := &mimimi.QueueRequest{Operation: operation, Queue: id, RequestID: requestID, Minute: minute, Body: body}
	if mimimi.VerifyQueueRequest(key, request, s.GetSignature(), now) != nil {
		return errQueueAuth
	}
	return nil
}

// authenticate checks a request's proof under the queue's own key.
func (q *queueSide) authenticate(ctx context.Context, operation string, queue []byte, s *mimimiv1.Signed, body []byte) (mimimi.QueueID, error) {
	id, err := mimimi.QueueIDFrom(queue)
	if err != nil {
		return id, errQueueID
	}
	r, ok, err := q.queues.record(ctx, id)
	if err != nil {
		return id, err
	}
	if !ok && (operation != "delete" || !r.GetDeleted()) { // a repeated delete finds its own work done
		return id, errQueueAuth
	}
	if err := verifyQueue(r.GetPublicKey(), operation, id, s, body, q.now()); err != nil {
		return id, err
	}
	if (operation == "read" || operation == "watch") && r.GetReadDay() < q.queues.today() {
		return id, q.queues.touch(ctx, id)
	}
	return id, nil
}

// Create makes a queue for one anonymous token. The token is spent first: a crash after that leaves a spent token and no queue, and the
// repeat, under the same request id, is let through.
func (q *queueSide) Create(ctx context.Context, req *mimimiv1.CreateQueueRequest) (*mimimiv1.CreateQueueResponse, error) {
	if err := q.create(ctx, req); err != nil {
		return nil, problem.Connect(err)
	}
	return &mimimiv1.CreateQueueResponse{}, nil
}

func (q *queueSide) create(ctx context.Context, req *mimimiv1.CreateQueueRequest) error {
	id, err := mimimi.QueueIDFrom(req.GetQueueId())
	if err != nil {
		return errQueueID
	}
	if len(req.GetPublicKey()) != ed25519.PublicKeySize {
		return errQueueKey
	}
	if err := verifyQueue(req.GetPublicKey(), "create", id, req.GetSigned(), req.GetPublicKey(), q.now()); err != nil {
		return err
	}
	_, err = q.redeemer.Redeem(ctx, &mimimi.Spending{
		Operation: mimimi.TokenQueue, Token: req.GetToken(), RequestID: [16]byte(req.GetSigned().GetRequestId()), Deed: append(id.Bytes(), req.GetPublicKey()...),
	})
	if err != nil {
		return err
	}
	return q.queues.create(ctx, id, req.GetPublicKey())
}

// Read returns entries after a position. It changes nothing.
func (q *queueSide) Read(ctx context.Context, req *mimimiv1.ReadQueueRequest) (*mimimiv1.ReadQueueResponse, error) {
	id, err := q.authenticate(ctx, "read", req.GetQueueId(), req.GetSigned(), position(req.GetAfter()))
	if err != nil {
		return nil, problem.Connect(err)
	}
	limit := int(req.GetLimit())
	if limit > readEntries {
		return nil, problem.Connect(errReadLimit)
	}
	if limit == 0 {
		limit = readEntries
	}
	entries, more, err := q.queues.read(ctx, id, req.GetAfter(), limit)
	if err != nil {
		return nil, problem.Connect(err)
	}
	return &mimimiv1.ReadQueueResponse{Entries: entries, More: more}, nil
}

// position is a position as the body of a proof.
func position(n uint64) []byte { return binary.BigEndian.AppendUint64(nil, n) }

// Ack removes everything up to and including a position.
func (q *queueSide) Ack(ctx context.Context, req *mimimiv1.AckQueueRequest) (*mimimiv1.AckQueueResponse, error) {
	id, err := q.authenticate(ctx, "ack", req.GetQueueId(), req.GetSigned(), position(req.GetUpTo()))
	if err == nil {
		err = q.queues.ack(ctx, id, req.GetUpTo())
	}
	if err != nil {
		return nil, problem.Connect(err)
	}
	return &mimimiv1.AckQueueResponse{}, nil
}

// Delete removes the queue for good.
func (q *queueSide) Delete(ctx context.Context, req *mimimiv1.DeleteQueueRequest) (*mimimiv1.DeleteQueueResponse, error) {
	id, err := q.authenticate(ctx, "delete", req.GetQueueId(), req.GetSigned(), nil)
	if err == nil {
		err = q.queues.remove(ctx, id)
	}
	if err != nil {
		return nil, problem.Connect(err)
	}
	return &mimimiv1.DeleteQueueResponse{}, nil
}

// Confirm gives a group its own quota.
func (q *queueSide) Confirm(ctx context.Context, req *mimimiv1.QueueGroupRequest) (*mimimiv1.QueueGroupResponse, error) {
	return q.setStanding(ctx, "confirm", req, confirmed)
}

// Refuse drops a group's deliveries from now on.
func (q *queueSide) Refuse(ctx context.Context, req *mimimiv1.QueueGroupRequest) (*mimimiv1.QueueGroupResponse, error) {
	return q.setStanding(ctx, "refuse", req, refused)
}

func (q *queueSide) setStanding(ctx context.Context, operation string, req *mimimiv1.QueueGroupRequest, s standing) (*mimimiv1.QueueGroupResponse, error) {
	if _, err := mimimi.ParseGroupID(req.GetGroupId()); err != nil {
		return nil, problem.Connect(errGroupID)
	}
	id, err := q.authenticate(ctx, operation, req.GetQueueId(), req.GetSigned(), req.GetGroupId())
	if err == nil {
		err = q.queues.mark(ctx, id, req.GetGroupId(), s)
	}
	if err != nil {
		return nil, problem.Connect(err)
	}
	return &mimimiv1.QueueGroupResponse{}, nil
}

// Watch sends a hint whenever the queue may hold something new, and an empty one every watchRepair, when it also looks for itself. It ends
// after watchTime, or when the service stops; the client then opens another.
func (q *queueSide) Watch(ctx context.Context, req *mimimiv1.WatchQueueRequest, stream *connect.ServerStream[mimimiv1.WatchQueueResponse]) error {
	id, err := q.authenticate(ctx, "watch", req.GetQueueId(), req.GetSigned(), position(req.GetAfter()))
	if err != nil {
		return problem.Connect(err)
	}
	leave, err := q.watches.enter(queueKey(id))
	if err != nil {
		return problem.Connect(err)
	}
	defer leave()
	q.m.Watches.Add(ctx, 1)
	defer q.m.Watches.Add(context.WithoutCancel(ctx), -1)
	hints := make(chan struct{}, 1) // one is enough: hints that come meanwhile are the same hint
	stop, err := q.queues.bus.Watch(q.queues.bus.Queue(id.Bytes()), func() {
		select {
		case hints <- struct{}{}:
		default:
		}
	})
	if err != nil {
		return problem.Connect(err)
	}
	defer stop()
	return problem.Connect(q.watch(ctx, id, req.GetAfter(), hints, stream.Send))
}

// watch is Watch's loop. It looks once after it has subscribed, so that nothing falls between.
func (q *queueSide) watch(ctx context.Context, id mimimi.QueueID, seen uint64, hints <-chan struct{}, send func(*mimimiv1.WatchQueueResponse) error) error {
	end := time.NewTimer(watchTime)
	defer end.Stop()
	repair := time.NewTicker(watchRepair)
	defer repair.Stop()
	quiet := true // the first answer says that the stream stands
	something, err := q.look(ctx, id, &seen)
	for {
		if err != nil {
			return err
		}
		if something || quiet {
			if err := send(&mimimiv1.WatchQueueResponse{Something: something}); err != nil {
				return nil // the client has gone
			}
		}
		select {
		case <-ctx.Done():
			return nil
		case <-end.C:
			return nil
		case <-q.watches.stopping:
			return errStopping
		case <-hints:
			something, quiet = true, false
			repair.Reset(watchRepair)
		case <-repair.C:
			something, err = q.look(ctx, id, &seen)
			quiet = true
		}
	}
}

// look reports whether the queue has something newer than what was seen.
func (q *queueSide) look(ctx context.Context, id mimimi.QueueID, seen *uint64) (something bool, err error) {
	last, err := q.queues.last(ctx, id)
	if err != nil || last <= *seen {
		return false, err
	}
	*seen = last
	return true, nil
}

// watches counts the open hint streams, and tells them when to end.
type watches struct {
	stopping chan struct{} // closed when the service stops

	mu      sync.Mutex
	total   int            // guarded by mu
	byQueue map[string]int // guarded by mu
}

func newWatches() *watches {
	return &watches{stopping: make(chan struct{}), byQueue: make(map[string]int)}
}

// enter takes a place, which leave gives back.
func (w *watches) enter(queue string) (leave func(), err error) {
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.total >= maxWatches || w.byQueue[queue] >= maxWatchesPerQueue {
		return nil, errWatchLimit
	}
	w.total++
	w.byQueue[queue]++
	return func() {
		w.mu.Lock()
		defer w.mu.Unlock()
		w.total--
		if w.byQueue[queue]--; w.byQueue[queue] == 0 {
			delete(w.byQueue, queue)
		}
	}, nil
}
