package kpstore

import (
	"bytes"
	"sync"
	"testing"
	"time"

	"google.golang.org/protobuf/proto"

	v1 "mimimi.example/api/mimimi/v1"
	"mimimi.example/pkg/mimimi"
	"mimimi.example/pkg/mls"
)

// notices reads what the store put into its own domain's outbox.
func (w *world) notices() (all []*v1.OutboundDelivery) {
	w.Helper()
	b := w.domain.Bus("provider")
	msgs, _, err := b.Read(w.Context(), b.Outbox(domain), 0, 100, 1<<20)
	if err != nil {
		w.Fatal(err)
	}
	for _, m := range msgs {
		e := new(v1.OutboxEntry)
		if err := proto.Unmarshal(m.Data, e); err != nil || e.GetDomain() != domain {
			w.Fatalf("an outbox entry for %q: %v", e.GetDomain(), err)
		}
		all = append(all, e.GetDelivery())
	}
	return all
}

// The owner's clients are told when a quarter of the stock is left, once an hour, by their pseudonyms in the set that was handed out, and of nothing else.
func TestLowStock(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	replicas := []*handler{w.replica(), w.replica()}
	u := w.user(domain)
	const stock = 40
	items := u.items(stock, 2)
	u.mustUpload(replicas[0], 1, items...)
	tokens := [][]byte{u.token(replicas[0]), u.token(replicas[0])}
	claim := func(i int) *v1.ClaimResponse {
		t.Helper()
		return must(replicas[i%2].claim(t.Context(), claimOf(tokens[i%2], true)))
	}
	for i := range stock - stock/4 - 1 {
		claim(i)
	}
	if n := len(w.notices()); n != 0 {
		t.Fatalf("%d notices while the stock is not low", n)
	}
	low := claim(0)
	var wg sync.WaitGroup
	for i := range 6 { // all of them leave few
		wg.Go(func() { claim(i) })
	}
	wg.Wait()
	got := w.notices()
	if len(got) != 1 {
		t.Fatalf("%d notices within the hour, want 1", len(got))
	}
	leaf := must(mimimi.ParseLeaf(must(mls.ParseKeyPackage(low.GetKeyPackages()[0])).Leaf()))
	want := &v1.Delivery{Kind: v1.Delivery_KIND_LOW_STOCK, Recipients: []*v1.Recipient{
		{ClientPseudonym: leaf.Credential.ClientPseudonym.Wire(), EncryptedQueueId: leaf.EncryptedQueueID},
	}}
	if !proto.Equal(got[0].GetDelivery(), want) {
		t.Error("the notice holds something else than the recipients of the set that was handed out")
	}
	raw := must(proto.Marshal(got[0]))
	owner := ownerOf(u.key.Public())
	for name, secret := range map[string][]byte{
		"connection token": tokens[0], "its hash": hashOf(tokens[0]), "write key": u.key.Public(), "index": owner,
		"user pseudonym": []byte(leaf.Credential.UserPseudonym.Wire()),
	} {
		if bytes.Contains(raw, secret) {
			t.Errorf("the notice holds the %s", name)
		}
	}
	w.now = w.now.Add(noticeEvery)
	claim(0)
	if n := len(w.notices()); n != 2 {
		t.Errorf("%d notices after the next hour began, want 2", n)
	}
	for range 4 {
		claim(1)
	}
	if got := claim(0); !got.GetLastResort() {
		t.Error("something is left")
	}
}

// All clients whose KeyPackages are in the set are told; a retry tells nobody again; a stock that was filled up again counts anew.
func TestLowStockClients(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	h := w.replica()
	u := w.user(domain)
	first := u.item(false)
	u.mustUpload(h, 2, first)
	second := u.keyPackage(must(parsePseudonym(parseUser(first.GetKeyPackage()))), false)
	u.mustUpload(h, 2, &v1.UploadItem{KeyPackage: second.Marshal(), Revision: u.list(h)[0].GetRevision()})
	req := claimOf(u.token(h), false)
	for range 2 {
		must(h.claim(t.Context(), clone(req)))
		w.now = w.now.Add(noticeEvery / 2)
	}
	got := w.notices()
	if len(got) != 1 || len(got[0].GetDelivery().GetRecipients()) != 2 {
		t.Fatalf("%d notices", len(got))
	}
	w.now = w.now.Add(time.Hour)
	u.mustUpload(h, 1, u.items(12, 0)...)
	for range 6 {
		must(h.claim(t.Context(), claimOf(u.token(h), false)))
	}
	if n := len(w.notices()); n != 1 {
		t.Errorf("%d notices, though half of it is left", n)
	}
}

// An index larger than one read: what was read of it is not taken for all of it.
func TestLowStockLargeIndex(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	h := w.replica()
	u := w.user(domain)
	u.mustUpload(h, 1, u.items(1, pageSets-1)...)
	u.mustUpload(h, 1, u.items(40, 0)...)
	if must(h.claim(t.Context(), claimOf(u.token(h), false))).GetLastResort() {
		t.Fatal("a last-resort set")
	}
	if n := len(w.notices()); n != 0 {
		t.Error("40 sets are taken for few")
	}
}
