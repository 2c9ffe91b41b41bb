package provider

import (
	"bytes"
	"context"
	"crypto/rand"
	"testing"
	"time"

	"connectrpc.com/connect"
	"google.golang.org/protobuf/proto"

	mimimiv1 "mimimi.example/api/mimimi/v1"
	"mimimi.example/api/mimimi/v1/mimimiv1connect"
	"mimimi.example/pkg/bus"
	"mimimi.example/pkg/mimimi"
)

// noRecord is what no record of the provider parses as: a field that ends after the message does.
var noRecord = []byte("\xffgarbage")

// put writes to the bus past the provider.
func (r *replica) put(s bus.Subject, data []byte) {
	r.d.t.Helper()
	if _, err := r.bus.Publish(context.WithoutCancel(r.d.t.Context()), s, data, bus.PublishOptions{}); err != nil {
		r.d.t.Fatalf("publish: %v", err)
	}
}

// marshalled is a record that parses, whatever it says.
func marshalled(m proto.Message) []byte { return must(proto.Marshal(m)) }

// wantCorrupt fails the test unless a call says that a stored record cannot be read.
func wantCorrupt(t *testing.T, what string, err error) {
	t.Helper()
	wantCode(t, what, err, connect.CodeInternal)
	if err != nil && !bytes.Contains([]byte(err.Error()), []byte(errCorrupt.Sentence)) {
		t.Errorf("%s: %v does not name what is wrong", what, err)
	}
}

func randomBytes(n int) []byte {
	b := make([]byte, n)
	rand.Read(b)
	return b
}

// accountCalls has one call of each kind by a person, and returns their errors.
func (r *replica) accountCalls(p *person) map[string]error {
	now, ctx := r.d.clock.Now(), r.d.t.Context()
	_, register := r.accounts().Register(ctx, p.registration(now))
	_, fetch := r.accounts().FetchInbox(ctx, &mimimiv1.FetchInboxRequest{Client: p.client.Wire(), Signed: p.sign(now, "fetch inbox", nil)})
	_, ack := r.accounts().AckInbox(ctx, &mimimiv1.AckInboxRequest{Client: p.client.Wire(), Position: 1, Signed: p.sign(now, "ack inbox", position(1))})
	_, links := r.accounts().ListLinks(ctx, &mimimiv1.ListLinksRequest{Client: p.client.Wire(), Signed: p.sign(now, "list links", nil)})
	_, clients := r.clients(p)
	_, renew := r.renew(p, must(mimimi.Suite.GenerateSignatureKey()), nil)
	return map[string]error{
		"register": register, "publish": r.publish(p, p.record(now).Marshal()), "fetch": fetch, "ack": ack, "list links": links, "list clients": clients,
		"approve link": r.approve(p, p.another(), []byte("x")), "renew": renew, "remove client": r.remove(p, p.another()), "delete account": r.deleteAccount(p),
	}
}

// queueCalls has one call of each kind by a queue's owner, and returns their errors.
func (q *testQueue) queueCalls() map[string]error {
	ctx, group := q.t.Context(), newGroup("a.example")
	_, create := q.rpc.Create(ctx, q.creation())
	_, read := q.rpc.Read(ctx, &mimimiv1.ReadQueueRequest{QueueId: q.id.Bytes(), Signed: q.sign("read", position(0))})
	_, ack := q.rpc.Ack(ctx, &mimimiv1.AckQueueRequest{QueueId: q.id.Bytes(), UpTo: 1, Signed: q.sign("ack", position(1))})
	_, confirm := q.rpc.Confirm(ctx, &mimimiv1.QueueGroupRequest{QueueId: q.id.Bytes(), GroupId: group, Signed: q.sign("confirm", group)})
	_, remove := q.rpc.Delete(ctx, &mimimiv1.DeleteQueueRequest{QueueId: q.id.Bytes(), Signed: q.sign("delete", nil)})
	watching, stop := context.WithTimeout(ctx, 10*time.Second)
	defer stop()
	stream, watch := q.rpc.Watch(watching, &mimimiv1.WatchQueueRequest{QueueId: q.id.Bytes(), Signed: q.sign("watch", position(0))})
	if watch == nil {
		stream.Receive()
		watch = stream.Err()
		_ = stream.Close() // it was refused, or ends here
	}
	return map[string]error{"create": create, "read": read, "ack": ack, "confirm": confirm, "delete": remove, "watch": watch}
}

// spoilt is a running provider whose records are spoilt.
type spoilt struct {
	d     *testDomain
	r     *replica
	inbox mimimiv1connect.InboxServiceClient
}

func newSpoilt(t *testing.T) *spoilt {
	t.Helper()
	d := newDomain(t, "a.example")
	r := d.start()
	return &spoilt{d: d, r: r, inbox: r.inbox(d.name)}
}

func (s *spoilt) deposit(id [16]byte, user string, sealed []byte) error {
	_, err := s.inbox.Deposit(s.d.t.Context(), &mimimiv1.DepositRequest{Token: s.d.token(mimimi.TokenConnect, s.d.name, id[:]), RequestId: id[:], User: user, SealedRequest: sealed})
	return err
}

func (s *spoilt) getRecord(user string) ([]byte, error) {
	answer, err := s.inbox.GetRecord(s.d.t.Context(), &mimimiv1.GetRecordRequest{User: user})
	return answer.GetRecord(), err
}

// TestGarbageStored has every family that the provider reads hold what the provider never wrote: each call that meets it fails with a named error, or
// passes it over. Nothing panics, and nobody gets a right by it.
func TestGarbageStored(t *testing.T) {
	t.Parallel()
	for name, spoil := range map[string]func(*testing.T, *spoilt){
		"dir.u":     spoilAccount,
		"dir.c":     spoilClient,
		"inbox":     spoilInbox,
		"inboxreq":  spoilInboxRequest,
		"queuemeta": spoilQueueRecord,
		"queue":     spoilQueue,
		"body":      spoilBody,
		"link":      spoilLinks,
		"revoked":   spoilRevocations,
		"leaving":   spoilLeaving,
	} {
		t.Run(name, func(t *testing.T) { spoil(t, newSpoilt(t)) })
	}
}

func spoilAccount(t *testing.T, s *spoilt) {
	alice := s.r.register("account")
	subject := s.r.bus.Account(alice.user.Wire())
	s.r.put(subject, noRecord)
	for what, err := range s.r.accountCalls(alice) {
		wantCorrupt(t, what, err)
	}
	_, err := s.getRecord(alice.user.Wire())
	wantCorrupt(t, "get record", err)
	wantCorrupt(t, "deposit", s.deposit(randomID(), alice.user.Wire(), randomRequest()))

	for name, account := range map[string]*mimimiv1.AccountEntry{
		"empty":    {},
		"no key":   {User: alice.user.Wire(), Clients: []*mimimiv1.AccountClient{{Client: alice.client.Wire()}}},
		"a short":  {User: alice.user.Wire(), Clients: []*mimimiv1.AccountClient{{Client: alice.client.Wire(), SignatureKey: randomBytes(31)}}},
		"a long":   {User: alice.user.Wire(), Clients: []*mimimiv1.AccountClient{{Client: alice.client.Wire(), SignatureKey: randomBytes(33)}}},
		"no point": {User: alice.user.Wire(), Clients: []*mimimiv1.AccountClient{{Client: alice.client.Wire(), SignatureKey: bytes.Repeat([]byte{0xff}, 32)}}},
	} {
		s.r.put(subject, marshalled(account))
		for what, err := range s.r.accountCalls(alice) {
			wantCode(t, name+", "+what, err, connect.CodePermissionDenied)
		}
		if record, err := s.getRecord(alice.user.Wire()); err != nil || len(record) != recordSize {
			t.Errorf("%s: a record of %d bytes, %v", name, len(record), err)
		}
	}
	s.r.put(subject, marshalled(&mimimiv1.AccountEntry{User: alice.user.Wire(), Record: randomBytes(recordSize + 1)}))
	_, err = s.getRecord(alice.user.Wire())
	wantCorrupt(t, "get a record that is too long", err)
}

func spoilClient(t *testing.T, s *spoilt) {
	alice := s.r.register("client")
	subject := s.r.bus.AccountClient(alice.client.Wire())
	s.r.put(subject, noRecord)
	for what, err := range s.r.accountCalls(alice) {
		if what == "register" { // answered from the account, which is whole
			if err != nil {
				t.Errorf("a repeated registration: %v", err)
			}
			continue
		}
		wantCorrupt(t, what, err)
	}
	other := newPerson(s.d.name, "client-two")
	other.client = alice.client
	_, err := s.r.accounts().Register(t.Context(), other.registration(s.d.clock.Now()))
	wantCorrupt(t, "register with this client", err)
	bob := s.r.register("client-three")
	for name, entry := range map[string]*mimimiv1.ClientEntry{
		"empty": {}, "nobody's": {User: string(bytes.Repeat([]byte("x"), 5000))}, "another's": {User: bob.user.Wire(), SignatureKey: alice.key.Public()},
	} {
		s.r.put(subject, marshalled(entry))
		_, err := s.r.accounts().FetchInbox(t.Context(), &mimimiv1.FetchInboxRequest{Client: alice.client.Wire(), Signed: alice.sign(s.d.clock.Now(), "fetch inbox", nil)})
		wantCode(t, name+", fetch", err, connect.CodePermissionDenied)
	}
}

func spoilInbox(t *testing.T, s *spoilt) {
	alice := s.r.register("inbox")
	subject, sealed := s.r.bus.Inbox(alice.user.Wire()), randomRequest()
	for _, garbage := range [][]byte{noRecord, nil, randomBytes(16 << 10)} {
		s.r.put(subject, garbage) // opaque to the provider, as everything in an inbox is
	}
	if err := s.deposit(randomID(), alice.user.Wire(), sealed); err != nil {
		t.Fatalf("deposit: %v", err)
	}
	items := s.r.items(alice)
	if len(items) != 4 || !bytes.Equal(items[3].GetSealedRequest(), sealed) {
		t.Fatalf("%d items, want 4 with the real one last", len(items))
	}
	n := items[2].GetPosition()
	_, err := s.r.accounts().AckInbox(t.Context(), &mimimiv1.AckInboxRequest{Client: alice.client.Wire(), Position: n, Signed: alice.sign(s.d.clock.Now(), "ack inbox", position(n))})
	if left := s.r.items(alice); err != nil || len(left) != 1 {
		t.Errorf("%d items after the garbage was acknowledged: %v", len(left), err)
	}
}

func spoilInboxRequest(t *testing.T, s *spoilt) {
	alice := s.r.register("inboxreq")
	id := randomID()
	s.r.put(s.r.bus.InboxRequest(id[:]), noRecord)
	wantCorrupt(t, "deposit", s.deposit(id, alice.user.Wire(), randomRequest()))
	for _, e := range []*mimimiv1.InboxRequestEntry{{}, {Done: true}, {ContentHash: randomBytes(5), Done: true}} {
		id := randomID()
		s.r.put(s.r.bus.InboxRequest(id[:]), marshalled(e))
		wantCode(t, "deposit under a taken id", s.deposit(id, alice.user.Wire(), randomRequest()), connect.CodeInvalidArgument)
	}
	if n := len(s.r.items(alice)); n != 0 {
		t.Errorf("the inbox holds %d requests, want none", n)
	}
	if err := s.deposit(randomID(), alice.user.Wire(), randomRequest()); err != nil {
		t.Errorf("the next one: %v", err)
	}
}

func spoilQueueRecord(t *testing.T, s *spoilt) {
	w, q := s.d.direct(), s.r.newQueue()
	subject := s.r.bus.QueueMeta(q.id.Bytes())
	s.r.put(subject, noRecord)
	for what, err := range q.queueCalls() {
		wantCorrupt(t, what, err)
	}
	to, sound := q.recipient(s.r.document(s.d.name)), s.r.newQueue()
	s.d.deliver(w, newDelivery(newGroup(s.d.name), 1, 10, to, sound.recipient(s.r.document(s.d.name)))) // one queue's damage is no other's
	if got := sequences(sound.all()); len(got) != 1 || got[0] != 1 {
		t.Errorf("the other recipient got %v", got)
	}
	for name, record := range map[string]*mimimiv1.QueueRecord{
		"empty": {}, "a short key": {PublicKey: randomBytes(31)}, "a long key": {PublicKey: randomBytes(33)}, "no point": {PublicKey: bytes.Repeat([]byte{0xff}, 32)},
		"odd marks": {Confirmed: [][]byte{nil, {1}}, Refused: [][]byte{randomBytes(1000)}}, "deleted": {Deleted: true},
	} {
		s.r.put(subject, marshalled(record))
		for what, err := range q.queueCalls() {
			wantCode(t, name+", "+what, err, connect.CodePermissionDenied)
		}
		if err := w.deliver(t.Context(), s.d.name, newDelivery(newGroup(s.d.name), 1, 10, to)); err != nil {
			t.Errorf("%s, deliver: %v", name, err)
		}
	}
}

func spoilQueue(t *testing.T, s *spoilt) {
	w, q, group := s.d.direct(), s.r.newQueue(), newGroup(s.d.name)
	to, subject := q.recipient(s.r.document(s.d.name)), s.r.bus.Queue(q.id.Bytes())
	s.r.put(subject, noRecord)
	s.r.put(subject, nil)
	s.r.put(subject, bytes.Repeat([]byte{0xff}, 5000))
	for _, item := range []*mimimiv1.QueueItem{{}, {BodyHash: randomBytes(3), Id: randomBytes(100)}, {GroupId: randomBytes(3000), Lost: true}} {
		s.r.put(subject, marshalled(item))
	}
	const bad = 6
	s.d.deliver(w, newDelivery(group, 1, 10, to)) // it does not hold back what comes after it
	entries := q.all()
	if len(entries) != bad+1 || entries[bad].GetDelivery().GetSequence() != 1 {
		t.Fatalf("%d entries, want %d with the delivery last", len(entries), bad+1)
	}
	for i, e := range entries[:bad] { // each has nothing in it, which is a loss
		if e.GetLost() == nil || e.GetDelivery() != nil || e.GetPosition() == 0 {
			t.Errorf("entry %d is no loss", i)
		}
	}
	q.ack(entries[bad-1].GetPosition())
	if got := sequences(q.all()); len(got) != 1 || got[0] != 1 {
		t.Errorf("after the garbage was acknowledged: %v", got)
	}
}

func spoilBody(t *testing.T, s *spoilt) {
	w, q, group := s.d.direct(), s.r.newQueue(), newGroup(s.d.name)
	large := newDelivery(group, 1, 3*inlineBody, q.recipient(s.r.document(s.d.name)))
	s.d.deliver(w, large)
	s.d.deliver(w, newDelivery(group, 2, 10, q.recipient(s.r.document(s.d.name))))
	subject := s.r.bus.Body(must(w.body(t.Context(), large.GetDelivery())).GetBodyHash())
	whole := must(s.r.bus.Last(t.Context(), subject)).Data
	other := marshalled(newDelivery(newGroup(s.d.name), 9, 2*inlineBody).GetDelivery())
	for name, body := range map[string][]byte{
		"garbage": noRecord, "empty": {}, "cut": whole[:len(whole)-1], "cut to a field": whole[:2+len(group)], "another": other,
	} {
		s.r.put(subject, body)
		entries := q.all()
		if len(entries) != 2 || entries[1].GetDelivery().GetSequence() != 2 {
			t.Fatalf("%s: %d entries, want 2", name, len(entries))
		}
		if l := entries[0].GetLost(); l == nil || !bytes.Equal(l.GetGroupId(), group) || entries[0].GetDelivery() != nil {
			t.Errorf("%s: the entry is no loss of its group", name)
		}
	}
	s.r.put(subject, whole)
	if got := q.all()[0].GetDelivery(); !bytes.Equal(got.GetMessage(), large.GetDelivery().GetMessage()) {
		t.Error("the body as it was is not the one that is read")
	}
}

// TestGarbagePeerRecord: what is remembered of a peer and cannot be read is neither shown to anybody nor replaced by what the peer says now, since its
// pinned key is in there; other domains' documents are shown.
func TestGarbagePeerRecord(t *testing.T) {
	t.Parallel()
	a, b := newDomain(t, "a.example"), newDomain(t, "b.example")
	rb := b.start()
	real := rb.document(b.name)
	a.meet(b, rb.federation)
	other := must(mimimi.Suite.GenerateSignatureKey()).Public()
	for name, record := range map[string][]byte{
		"garbage":     noRecord,
		"empty":       nil,
		"no document": marshalled(&mimimiv1.PeerRecord{IdentityKey: real.IdentityKey}),
		"no key":      marshalled(&mimimiv1.PeerRecord{Document: real.Marshal()}),
		"another key": marshalled(&mimimiv1.PeerRecord{IdentityKey: other, Document: real.Marshal()}),
		"cut":         marshalled(&mimimiv1.PeerRecord{IdentityKey: real.IdentityKey, Document: real.Marshal()[:len(real.Marshal())-1]}),
	} {
		t.Run(name, func(t *testing.T) {
			provider := a.bus.Bus("provider")
			subject := provider.PeerKey(b.name)
			if _, err := provider.Publish(t.Context(), subject, record, bus.PublishOptions{}); err != nil {
				t.Fatal(err)
			}
			ra := a.start() // with nothing in memory
			defer ra.stop()
			end := time.Now().Add(20 * time.Second)
			for {
				answer, err := ra.relay().GetKeyDocument(t.Context(), &mimimiv1.GetKeyDocumentRequest{Domain: b.name})
				if connect.CodeOf(err) == connect.CodeNotFound && time.Now().Before(end) {
					continue // its file has not been read yet
				}
				wantCorrupt(t, "document", err)
				if len(answer.GetDocument()) > 0 {
					t.Error("a document was shown")
				}
				break
			}
			if m, err := provider.Last(t.Context(), subject); err != nil || !bytes.Equal(m.Data, record) {
				t.Errorf("the record was replaced: %v", err)
			}
			if doc := ra.document(a.name); doc.Domain != a.name {
				t.Error("the own document is not shown")
			}
		})
	}
}
