package fanout

import (
	"context"
	"errors"
	"fmt"
	"testing"

	"mimimi.example/pkg/bus"
	"mimimi.example/pkg/problem"
)

// troubled does something else instead of a Publish to one subject.
type troubled struct {
	log
	subject bus.Subject
	publish func() error
}

func (l *troubled) Publish(ctx context.Context, s bus.Subject, data []byte, o bus.PublishOptions) (uint64, error) {
	if s == l.subject {
		return 0, l.publish()
	}
	return l.log.Publish(ctx, s, data, o)
}

// OUTBOX has no room under one domain: if that is another one, its part is left out for good and said, and the group goes on; under the own domain the entry
// is tried again.
func TestFull(t *testing.T) {
	w := newWorld(t)
	s := w.group("one")
	s.create(0, leaf(0, domainA), leaf(1, domainB))
	hello := s.message(0, "hello")
	again := s.message(0, "again")
	f := w.replica()
	outbox, full := f.log, problem.New(problem.Limited, "full")
	refuse := func(domain string) *troubled {
		return &troubled{log: outbox, subject: f.subjects.Outbox(domain), publish: func() error { return full }}
	}

	f.run(t, s.entries[0])
	f.log = refuse(domainA)
	if err := f.handle(t.Context(), s.entries[1]); problem.KindOf(err) != problem.Limited {
		t.Fatalf("no room under the own domain: %v", err)
	}
	f.log = refuse(domainB)
	if err := f.handle(t.Context(), s.entries[1]); !errors.Is(err, errFull) || problem.KindOf(err) != problem.Invalid {
		t.Fatalf("no room under another domain: %v", err)
	}
	f.log = outbox
	f.run(t, s.entries[2])
	w.expect(domainA,
		fmt.Sprintf(`%d<0 KIND_MESSAGE epoch 0 "hello" to [a.example/d/0=queue 0]`, hello),
		fmt.Sprintf(`%d<%d KIND_MESSAGE epoch 0 "again" to [a.example/d/0=queue 0]`, again, hello))
	var last string
	for _, l := range lines(w.outbox(domainB)) { // the first try under the own domain may have reached B
		last = l
	}
	if want := fmt.Sprintf(`%d<%d KIND_MESSAGE epoch 0 "again" to [b.example/d/1=queue 1]`, again, hello); last != want {
		t.Errorf("for %s: %s, want %s", domainB, last, want)
	}
}

// A panic while an entry is appended is an internal error, not the end of the process.
func TestPanic(t *testing.T) {
	w := newWorld(t)
	s := w.group("one")
	s.create(0, leaf(0, domainA), leaf(1, domainB))
	s.message(0, "hello")
	f := w.replica()
	f.log = &troubled{log: f.log, subject: f.subjects.Outbox(domainB), publish: func() error { panic("canary") }}
	if err := f.handle(t.Context(), s.entries[1]); !errors.Is(err, errPanic) || problem.KindOf(err) != problem.Internal {
		t.Errorf("got %v", err)
	}
}
