package client

import (
	"context"
	"errors"
	"net/http"
	"time"

	mimimiv1 "mimimi.example/api/mimimi/v1"
	"mimimi.example/api/mimimi/v1/mimimiv1connect"
	"mimimi.example/pkg/mimimi"
	"mimimi.example/pkg/mls"
)

// Watcher waits for something to fetch. It does not use the store, so that a process can Close its Client while it waits. Not safe for concurrent use.
type Watcher struct {
	http    *http.Client
	queue   mimimiv1connect.QueueServiceClient
	id      mimimi.QueueID
	key     mls.SignatureKey
	now     func() time.Time
	after   uint64
	due     time.Time     // of a delayed duty; zero: none
	hinted  bool          // the last Wait ended with a hint
	backoff time.Duration // before the next try; grows while streams fail, and while hints lead nowhere
}

// Watcher returns a Watcher for the client's queue from its present position. Close it after use.
func (c *Client) Watcher(ctx context.Context) (*Watcher, error) {
	h, err := newHTTPClient(c.account.rec.Provider.CA)
	if err != nil {
		return nil, err
	}
	w := &Watcher{http: h, queue: mimimiv1connect.NewQueueServiceClient(h, c.account.rec.Provider.AnonymousURL, connectOptions()...), now: c.cfg.Now}
	return w, w.Reset(ctx, c)
}

// Reset makes w wait for what comes after c's present position; call it after a Sync. c must be the client that w came from, though possibly opened anew.
// Errors: ErrClosed, ErrDeviceRemoved.
func (w *Watcher) Reset(ctx context.Context, c *Client) error {
	return c.lockedFor(ctx, func() (err error) {
		if c.account.rec.Removed {
			return ErrDeviceRemoved // there is nothing to wait for
		}
		w.id, w.key = c.account.queueID, c.account.queueKey
		was := w.after
		if w.after, err = c.position(); err != nil {
			return err
		}
		if w.hinted && w.after == was {
			w.slower() // the queue has something that cannot be processed now
		} else {
			w.backoff = 0
		}
		w.hinted = false
		w.due, err = c.nextDue()
		return err
	})
}

// Wait returns nil when there may be something for Sync: at a hint from the queue, when a delayed duty is due, and at least every 15 seconds,
// since the inbox gives no hints. It connects again, with backoff, for as long as it takes. Its only error is ctx's.
func (w *Watcher) Wait(ctx context.Context) error {
	poll := pollEvery
	if !w.due.IsZero() {
		poll = max(dueFloor, min(poll, w.due.Sub(w.now())))
	}
	waiting, cancel := context.WithTimeout(ctx, poll)
	defer cancel()
	for {
		if w.pause(waiting) || w.watch(waiting) || waiting.Err() != nil {
			return ctx.Err()
		}
		w.slower()
	}
}

func (w *Watcher) slower() { w.backoff = min(max(backoffFirst, 2*w.backoff), backoffMost) }

// pause waits for the backoff. It reports whether the time to wait is over.
func (w *Watcher) pause(ctx context.Context) bool {
	t := time.NewTimer(w.backoff)
	defer t.Stop()
	select {
	case <-ctx.Done():
		return true
	case <-t.C:
		return false
	}
}

// watch opens the hint stream and reports whether a hint came before it ended.
func (w *Watcher) watch(ctx context.Context) bool {
	minute := w.now().Truncate(time.Minute)
	id := newRequestID()
	request := &mimimi.QueueRequest{Operation: opQueueWatch, Queue: w.id, RequestID: requestID(id), Minute: minute, Body: bigEndian(w.after)}
	stream, err := w.queue.Watch(ctx, &mimimiv1.WatchQueueRequest{
		QueueId: w.id.Bytes(), After: w.after,
		Signed: &mimimiv1.Signed{RequestId: id, Minute: minute.Unix() / 60, Signature: mimimi.SignQueueRequest(w.key, request)},
	})
	if err != nil {
		return false
	}
	defer func() { err = errors.Join(err, stream.Close()) }() // the stream is over either way
	for stream.Receive() {
		if stream.Msg().Something {
			w.hinted = true
			return true
		}
	}
	return false
}

// Close releases the connections.
func (w *Watcher) Close() { w.http.CloseIdleConnections() }
