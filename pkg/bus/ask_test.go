package bus_test

import (
	"context"
	"errors"
	"slices"
	"strconv"
	"sync"
	"testing"
	"time"

	"mimimi.example/pkg/bus"
	"mimimi.example/pkg/bus/bustest"
	"mimimi.example/pkg/problem"
)

// TestLeaderGone: the node that leads a stream goes while messages are published, read and counted. Nobody who may ask again is told of it, and nothing is stored twice.
func TestLeaderGone(t *testing.T) {
	t.Parallel()
	if testing.Short() {
		t.Skip("a cluster takes several seconds to start")
	}
	const writers, each = 4, 30
	d := bustest.StartOpenCluster(t)
	b := d.Bus("hub")
	b.SetLeaderWait(time.Minute)
	ctx, cancel := context.WithTimeout(t.Context(), 2*time.Minute)
	defer cancel()
	s := b.GroupMessages([]byte("g"))
	stream := s.Stream()
	half := make(chan struct{})
	var begun, all sync.WaitGroup
	begun.Add(writers)
	for w := range writers {
		all.Go(func() {
			for i := range each {
				if i == each/2 {
					begun.Done()
					<-half
				}
				text := strconv.Itoa(w*each + i)
				if _, err := b.Publish(ctx, s, []byte(text), bus.PublishOptions{ID: text}); err != nil {
					t.Errorf("publish: %v", err)
				}
				if _, err := b.Last(ctx, s); err != nil {
					t.Errorf("last: %v", err)
				}
				if _, _, err := b.Read(ctx, s, 0, 10, 1<<20); err != nil {
					t.Errorf("read: %v", err)
				}
			}
		})
	}
	begun.Wait()
	leader := slices.IndexFunc(d.Servers(), func(n *bus.Server) bool { return n.LeadsStream(stream) })
	if leader < 0 {
		t.Fatal("nobody leads the stream")
	}
	close(half)
	d.Servers()[leader].Shutdown()
	all.Wait()
	n, err := b.Count(ctx, s)
	if err != nil || n != writers*each {
		t.Errorf("%d messages, %v", n, err)
	}
}

// TestConnectionLost: who waits for an answer over a connection that is lost is told at once, and need not wait until the time for it is over.
func TestConnectionLost(t *testing.T) {
	t.Parallel()
	d := bustest.StartOpenCluster(t)
	caller, called := d.Bus("provider"), d.Bus("hub")
	ctx, cancel := context.WithCancel(t.Context())
	began, end := make(chan struct{}), make(chan struct{})
	var all sync.WaitGroup
	defer all.Wait()
	defer cancel()
	defer close(end)
	all.Go(func() {
		if err := called.Serve(ctx, "hub", func(context.Context, []byte) []byte {
			close(began)
			<-end
			return nil
		}); err != nil {
			t.Error(err)
		}
	})
	if !eventually(t, time.Minute, func() bool { return called.Ready() == nil }) {
		t.Fatal("the service does not serve")
	}
	answer := make(chan error, 1)
	go func() {
		_, err := caller.Call(t.Context(), "hub", []byte("x"))
		answer <- err
	}()
	<-began
	at := caller.Conn().ConnectedServerName()
	for i, s := range d.Servers() {
		if at == "node-"+strconv.Itoa(i) {
			s.Shutdown()
		}
	}
	if err := <-answer; !errors.Is(err, bus.ErrCut) || problem.KindOf(err) != problem.Unavailable {
		t.Errorf("the caller is told %v", err)
	}
}

// TestStranded: a server that the others have left alone is noticed, by every service that reads streams, and one that reaches them is not taken for that.
func TestStranded(t *testing.T) {
	t.Parallel()
	if testing.Short() {
		t.Skip("a cluster takes several seconds to start")
	}
	d := bustest.StartCluster(t)
	all := []*bus.Bus{d.Bus("hub"), d.Bus("kpstore"), d.Bus("fanout"), d.Bus("provider")}
	for _, b := range all {
		if !eventually(t, time.Minute, func() bool { return !b.Stranded() }) {
			t.Error("a cluster that is whole is taken for one that is not")
		}
	}
	for _, s := range d.Servers()[1:] {
		s.Shutdown()
	}
	for _, b := range all {
		b.SetLeaderWait(0)
		if !eventually(t, 2*time.Minute, b.Stranded) {
			t.Error("nobody notices that the cluster has lost its quorum")
		}
	}
}
