package client

import (
	"context"
	"iter"
)

// Stream keeps the client in sync for as long as the loop over it runs, and yields the events with Seq > after, oldest first, each when it is stored. An app
// stores the Seq of the last event that it has dealt with and gives it to the next Stream; then it misses none and sees none twice.
//
// A Sync that fails yields its error with a zero Event, after what it has stored, and the stream goes on and tries again: the loop decides whether to break. The
// stream ends when ctx does, which it does not yield, and after an error of the store or ErrClosed. The loop's body may call the client's methods. Several
// streams of one Client, and one with calls of Sync, do no harm.
func (c *Client) Stream(ctx context.Context, after uint64) iter.Seq2[Event, error] {
	return func(yield func(Event, error) bool) {
		w, err := c.Watcher(ctx)
		if err != nil {
			if ctx.Err() == nil {
				yield(Event{}, err)
			}
			return
		}
		defer w.Close()
		s := &stream{client: c, after: after, yield: yield}
		for s.round(ctx, w) {
		}
	}
}

// stream is one loop over events.
type stream struct {
	client *Client
	after  uint64 // the last event that was yielded
	yield  func(Event, error) bool
}

// round syncs, yields what is new and waits until there may be more to fetch. It reports whether the stream goes on.
func (s *stream) round(ctx context.Context, w *Watcher) bool {
	syncErr := s.client.Sync(ctx)
	more, ok := s.drain(ctx)
	switch {
	case !ok || ctx.Err() != nil:
		return false
	case syncErr != nil && !s.yield(Event{}, syncErr):
		return false
	}
	if err := w.Reset(ctx, s.client); err != nil {
		return s.end(ctx, err)
	}
	return s.wait(ctx, w, more)
}

// wait waits for the Watcher. What other calls add to the events meanwhile is yielded at once.
func (s *stream) wait(ctx context.Context, w *Watcher, more <-chan struct{}) bool {
	waiting, cancel := context.WithCancel(ctx)
	done := make(chan struct{})
	defer func() {
		cancel()
		<-done // w is used by nobody any more
	}()
	go func() {
		defer close(done)
		_ = w.Wait(waiting) // its only error is the context's
	}()
	for {
		select {
		case <-done:
			return ctx.Err() == nil
		case <-more:
			var ok bool
			if more, ok = s.drain(ctx); !ok {
				return false
			}
		}
	}
}

// drain yields all events that there are, with no lock held. The channel is closed when there are more.
func (s *stream) drain(ctx context.Context) (more <-chan struct{}, ok bool) {
	for {
		events, more, err := s.client.page(ctx, s.after, maxEvents)
		if err != nil {
			return nil, s.end(ctx, err)
		}
		if len(events) == 0 {
			return more, true
		}
		for _, e := range events {
			s.after = e.Seq
			if !s.yield(e, nil) {
				return nil, false
			}
		}
	}
}

// end yields why the stream ends, unless it was told to.
func (s *stream) end(ctx context.Context, err error) bool {
	if ctx.Err() == nil {
		s.yield(Event{}, err)
	}
	return false
}
