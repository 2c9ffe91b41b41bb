package fanout

import (
	"context"
	"encoding/binary"
	"fmt"
	"slices"
	"sync/atomic"
	"testing"

	"go.opentelemetry.io/otel/metric/noop"
	"golang.org/x/crypto/cryptobyte"
	"google.golang.org/protobuf/proto"

	v1 "mimimi.example/api/mimimi/v1"
	"mimimi.example/pkg/bus"
	"mimimi.example/pkg/bus/bustest"
	"mimimi.example/pkg/problem"
)

// world is one domain's bus with a hub that accepts whatever a test wants.
type world struct {
	*testing.T
	domain   *bustest.Domain
	hub      *bus.Bus
	provider *bus.Bus
}

func newWorld(t *testing.T) *world {
	d := bustest.Start(t)
	return &world{T: t, domain: d, hub: d.Bus("hub"), provider: d.Bus("provider")}
}

// replica is a fan-out of its own, with nothing cached.
func (w *world) replica() *fanout {
	b := w.domain.Bus("fanout")
	return newFanout(b, b, domainA, maxCachedLeaves, testMetrics())
}

// cold is a fan-out on the same connection as f, with nothing cached.
func (f *fanout) cold() *fanout {
	return newFanout(f.log, f.subjects, f.domain, maxCachedLeaves, testMetrics())
}

func testMetrics() *metrics {
	m, err := newMetrics(noop.Meter{})
	if err != nil {
		panic(err)
	}
	return m
}

// script writes one group's log as a hub would.
type script struct {
	*world
	id         []byte
	at         int64 // seconds
	checkpoint uint64
	handshake  uint64
	entries    []*bus.Message // all of them, as a consumer gets them
}

func (w *world) group(name string) *script {
	return &script{world: w, id: []byte("mimi://a.example/g/" + name), at: 1_800_000_000}
}

func (s *script) put(e *v1.GroupEntry) uint64 {
	s.Helper()
	e.GroupId, e.Checkpoint, e.Handshake, e.AcceptedMs = s.id, s.checkpoint, s.handshake, s.at*1000+999
	subject, o := s.hub.GroupMessages(s.id), bus.PublishOptions{}
	if e.GetApplication() == nil {
		subject, o.ExpectLast = s.hub.GroupHandshakes(s.id), &s.handshake
	}
	data, err := proto.Marshal(e)
	if err != nil {
		s.Fatal(err)
	}
	return s.raw(subject, data, o)
}

// raw writes any bytes.
func (s *script) raw(subject bus.Subject, data []byte, o bus.PublishOptions) uint64 {
	s.Helper()
	seq, err := s.hub.Publish(s.Context(), subject, data, o)
	if err != nil {
		s.Fatalf("publish: %v", err)
	}
	s.entries = append(s.entries, &bus.Message{Sequence: seq, Data: data})
	if subject == s.hub.GroupHandshakes(s.id) {
		s.handshake = seq
	}
	return seq
}

func (s *script) state(c *v1.CheckpointEntry) uint64 {
	s.Helper()
	seq := s.put(&v1.GroupEntry{Entry: &v1.GroupEntry_State{State: c}})
	s.checkpoint = seq
	return seq
}

func (s *script) create(epoch uint64, roster ...*v1.RosterChange) uint64 {
	s.Helper()
	return s.state(&v1.CheckpointEntry{Creation: true, Roster: roster, Epochs: []*v1.EpochRecord{{Epoch: epoch}}})
}

func (s *script) message(epoch uint64, text string) uint64 {
	s.Helper()
	return s.put(&v1.GroupEntry{Entry: &v1.GroupEntry_Application{Application: &v1.ApplicationEntry{Epoch: epoch, Message: []byte(text)}}})
}

func (s *script) commit(epoch uint64, changes ...*v1.RosterChange) uint64 {
	s.Helper()
	return s.commitWith(&v1.HandshakeEntry{Epoch: epoch, Changes: changes})
}

func (s *script) commitWith(c *v1.HandshakeEntry) uint64 {
	s.Helper()
	c.Message = fmt.Appendf(nil, "commit to %d", c.GetEpoch())
	c.EpochSenderKey, c.ExternalPub = fmt.Appendf(nil, "sender %d", c.GetEpoch()), fmt.Appendf(nil, "external %d", c.GetEpoch())
	return s.put(&v1.GroupEntry{Entry: &v1.GroupEntry_Commit{Commit: c}})
}

// add is a commit that adds leaves with a Welcome.
func (s *script) add(epoch uint64, leaves ...*v1.RosterChange) uint64 {
	s.Helper()
	c := &v1.HandshakeEntry{Epoch: epoch, Changes: leaves}
	var refs [][]byte
	for _, l := range leaves {
		ref := refOf(l.GetLeaf())
		refs = append(refs, ref)
		c.Newcomers = append(c.Newcomers, &v1.Newcomer{KeyPackageRef: ref, Leaf: l.GetLeaf()})
	}
	c.Welcome = welcome(refs...)
	return s.commitWith(c)
}

func (s *script) propose(epoch uint64, text string, changes ...*v1.RosterChange) uint64 {
	s.Helper()
	return s.put(&v1.GroupEntry{Entry: &v1.GroupEntry_Proposal{Proposal: &v1.HandshakeEntry{Epoch: epoch, Message: []byte(text), Changes: changes}}})
}

// leaf is a client in the tree.
func leaf(i uint32, domain string) *v1.RosterChange {
	return &v1.RosterChange{
		Leaf: i, Domain: domain, ClientPseudonym: fmt.Sprintf("mimi://%s/d/%d", domain, i), EncryptedQueueId: fmt.Appendf(nil, "queue %d", i),
	}
}

func gone(i uint32) *v1.RosterChange { return &v1.RosterChange{Leaf: i, Gone: true} }

func refOf(leaf uint32) []byte { return binary.BigEndian.AppendUint32(make([]byte, 28), leaf) }

// welcome is a bare Welcome (RFC 9420 §12.4.3.1) with an entry for each reference.
func welcome(refs ...[]byte) []byte {
	var secrets, b cryptobyte.Builder
	for _, ref := range refs {
		addOpaque(&secrets, string(ref))
		addOpaque(&secrets, "kem of "+string(ref))
		addOpaque(&secrets, "secrets of "+string(ref))
	}
	b.AddUint16(1)
	addOpaque(&b, string(secrets.BytesOrPanic()))
	addOpaque(&b, "encrypted group info")
	return b.BytesOrPanic()
}

// outbox reads what was appended for a domain, in order.
func (w *world) outbox(domain string) []*v1.OutboundDelivery {
	w.Helper()
	var out []*v1.OutboundDelivery
	for after, more := uint64(0), true; more; {
		msgs, rest, err := w.provider.Read(w.Context(), w.provider.Outbox(domain), after, 500, 64<<20)
		if err != nil {
			w.Fatal(err)
		}
		for _, m := range msgs {
			e := new(v1.OutboxEntry)
			if err := proto.Unmarshal(m.Data, e); err != nil || e.GetDomain() != domain {
				w.Fatalf("an OUTBOX message cannot be read or is for another domain: %v", err)
			}
			out, after = append(out, e.GetDelivery()), m.Sequence
		}
		more = rest
	}
	return out
}

// line is a delivery as the tests compare it.
func line(d *v1.Delivery) string {
	var to []string
	for _, r := range d.GetRecipients() {
		to = append(to, r.GetClientPseudonym()[len("mimi://"):]+"="+string(r.GetEncryptedQueueId()))
	}
	text := string(d.GetMessage())
	if d.GetKind() == v1.Delivery_KIND_WELCOME {
		text = "welcome"
	}
	return fmt.Sprintf("%d<%d %s epoch %d %q to %v", d.GetSequence(), d.GetPrevious(), d.GetKind(), d.GetEpoch(), text, to)
}

func lines(ds []*v1.OutboundDelivery) []string {
	var out []string
	for _, d := range ds {
		out = append(out, line(d.GetDelivery()))
	}
	return out
}

// run works off entries one after another, as Consume does with one group's.
func (f *fanout) run(t testing.TB, entries ...*bus.Message) {
	t.Helper()
	for _, m := range entries {
		if err := f.handle(t.Context(), m); err != nil {
			t.Fatalf("entry %d: %v", m.Sequence, err)
		}
	}
}

// expect compares deliveries, by lines.
func (w *world) expect(domain string, want ...string) {
	w.Helper()
	if got := lines(w.outbox(domain)); !slices.Equal(got, want) {
		w.Errorf("for %s:", domain)
		for i := range max(len(got), len(want)) {
			var g, x string
			if i < len(got) {
				g = got[i]
			}
			if i < len(want) {
				x = want[i]
			}
			if mark := "  "; g != x {
				mark = "! "
				w.Errorf("%sgot  %s\n  want %s", mark, g, x)
			}
		}
	}
}

// faulty fails one Publish, which may be stored all the same.
type faulty struct {
	log
	at      int // 1 is the first
	persist bool
	writes  atomic.Int64 // domains are written to at once
}

var errInjected = problem.New(problem.Unavailable, "injected")

func (f *faulty) Publish(ctx context.Context, s bus.Subject, data []byte, o bus.PublishOptions) (uint64, error) {
	if f.writes.Add(1) != int64(f.at) {
		return f.log.Publish(ctx, s, data, o)
	}
	if f.persist {
		if _, err := f.log.Publish(ctx, s, data, o); err != nil {
			return 0, err
		}
	}
	return 0, errInjected
}
