package provider

import (
	"bytes"
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	"connectrpc.com/connect"

	mimimiv1 "mimimi.example/api/mimimi/v1"
	"mimimi.example/pkg/mimimi"
	"mimimi.example/pkg/problem"
)

// wantProblem fails the test unless a call ends with this very problem.
func wantProblem(t *testing.T, what string, err error, want *problem.Error) {
	t.Helper()
	if err == nil || connect.CodeOf(err) != connect.CodeOf(problem.Connect(want)) || !strings.Contains(err.Error(), want.Sentence) {
		t.Errorf("%s: got %v, want %v", what, err, want)
	}
}

// another is a client of the same user that is not on the account yet.
func (p *person) another() *person {
	return &person{user: p.user, client: must(mimimi.NewClient(p.user.Domain())), key: must(mimimi.Suite.GenerateSignatureKey())}
}

func (r *replica) offer(p *person, offer []byte, change func(*mimimiv1.OfferLinkRequest)) error {
	req := &mimimiv1.OfferLinkRequest{
		User: p.user.Wire(), Client: p.client.Wire(), SignatureKey: p.key.Public(), Offer: offer,
		Signed: p.sign(r.d.clock.Now(), "offer link", slices.Concat([]byte(p.user.Wire()), []byte{0}, offer)),
	}
	if change != nil {
		change(req)
	}
	_, err := r.accounts().OfferLink(r.d.t.Context(), req)
	return err
}

func (r *replica) links(p *person) []*mimimiv1.Link {
	r.d.t.Helper()
	answer, err := r.accounts().ListLinks(r.d.t.Context(), &mimimiv1.ListLinksRequest{Client: p.client.Wire(), Signed: p.sign(r.d.clock.Now(), "list links", nil)})
	if err != nil {
		r.d.t.Fatalf("ListLinks: %v", err)
	}
	return answer.GetLinks()
}

func (r *replica) approval(by, linked *person, answer []byte) *mimimiv1.ApproveLinkRequest {
	body := slices.Concat([]byte(linked.client.Wire()), []byte{0}, linked.key.Public(), answer)
	return &mimimiv1.ApproveLinkRequest{
		Client: by.client.Wire(), LinkedClient: linked.client.Wire(), SignatureKey: linked.key.Public(), SealedAnswer: answer,
		Signed: by.sign(r.d.clock.Now(), "approve link", body),
	}
}

func (r *replica) approve(by, linked *person, answer []byte) error {
	_, err := r.accounts().ApproveLink(r.d.t.Context(), r.approval(by, linked, answer))
	return err
}

func (r *replica) getLink(p *person) (*mimimiv1.GetLinkResponse, error) {
	return r.accounts().GetLink(r.d.t.Context(), &mimimiv1.GetLinkRequest{User: p.user.Wire(), Client: p.client.Wire(), Signed: p.sign(r.d.clock.Now(), "get link", nil)})
}

func (r *replica) putPackage(p *person, sealed []byte) error {
	_, err := r.accounts().PutLinkPackage(r.d.t.Context(), &mimimiv1.PutLinkPackageRequest{
		User: p.user.Wire(), Client: p.client.Wire(), SealedPackage: sealed, Signed: p.sign(r.d.clock.Now(), "put link package", sealed),
	})
	return err
}

// link brings another client of a person's user onto the account.
func (r *replica) link(by *person) *person {
	r.d.t.Helper()
	p := by.another()
	if err := r.offer(p, []byte("offer"), nil); err != nil {
		r.d.t.Fatalf("OfferLink: %v", err)
	}
	if err := r.approve(by, p, []byte("answer")); err != nil {
		r.d.t.Fatalf("ApproveLink: %v", err)
	}
	answer, err := r.getLink(p)
	if err != nil {
		r.d.t.Fatalf("GetLink: %v", err)
	}
	p.certificate = must(mimimi.ParseClientCertificate(answer.GetCertificate()))
	return p
}

// clients lists the certificates of a person's account.
func (r *replica) clients(p *person) ([]*mimimi.ClientCertificate, error) {
	answer, err := r.accounts().ListClients(r.d.t.Context(), &mimimiv1.ListClientsRequest{Client: p.client.Wire(), Signed: p.sign(r.d.clock.Now(), "list clients", nil)})
	var certificates []*mimimi.ClientCertificate
	for _, c := range answer.GetCertificates() {
		certificates = append(certificates, must(mimimi.ParseClientCertificate(c)))
	}
	return certificates, err
}

// TestLink: a new client comes in by offer, approval and package, each of which may be repeated, at any replica.
func TestLink(t *testing.T) {
	t.Parallel()
	d := newDomain(t, "a.example")
	r, other := d.start(), d.start()
	alice := r.register("alice")
	phone := alice.another()
	_, err := r.getLink(phone)
	wantProblem(t, "an answer before the offer", err, errNoLink)
	for _, at := range []*replica{r, other, r} {
		if err := at.offer(phone, []byte("offer"), nil); err != nil {
			t.Fatalf("OfferLink: %v", err)
		}
	}
	waiting := other.links(alice)
	if len(waiting) != 1 || waiting[0].GetClient() != phone.client.Wire() || !bytes.Equal(waiting[0].GetSignatureKey(), phone.key.Public()) ||
		string(waiting[0].GetOffer()) != "offer" || waiting[0].GetApproved() {
		t.Fatalf("%d links wait, or another one", len(waiting))
	}
	_, err = r.getLink(phone)
	wantProblem(t, "an answer before the approval", err, errNoLink)
	wantProblem(t, "a package before the approval", r.putPackage(phone, []byte("package")), errNoLink)
	_, err = r.clients(phone)
	wantProblem(t, "a client that is not approved", err, errAccountAuth)
	for _, at := range []*replica{r, other, r} {
		if err := at.approve(alice, phone, []byte("answer")); err != nil {
			t.Fatalf("ApproveLink: %v", err)
		}
	}
	wantProblem(t, "another answer", r.approve(alice, phone, []byte("another answer")), errApproved)
	answer, err := other.getLink(phone)
	if err != nil || string(answer.GetSealedAnswer()) != "answer" {
		t.Fatalf("GetLink: %v", err)
	}
	certificate := must(mimimi.ParseClientCertificate(answer.GetCertificate()))
	if err := certificate.Verify(r.document(d.name).IdentityKey, d.clock.Now()); err != nil || certificate.User != alice.user || certificate.Client != phone.client ||
		!bytes.Equal(certificate.SignatureKey, phone.key.Public()) {
		t.Errorf("the certificate is for somebody else, or by somebody else: %v", err)
	}
	for _, sealed := range []string{"package", "package", "the last one counts"} {
		if err := r.putPackage(phone, []byte(sealed)); err != nil {
			t.Fatalf("PutLinkPackage: %v", err)
		}
	}
	if l := other.links(alice); len(l) != 1 || !l[0].GetApproved() || string(l[0].GetSealedPackage()) != "the last one counts" {
		t.Errorf("the package is not in the list of %d links", len(l))
	}
	if got, err := r.clients(phone); err != nil || len(got) != 2 || !bytes.Equal(got[1].Marshal(), certificate.Marshal()) {
		t.Errorf("the account has %d clients: %v", len(got), err)
	}
	phone.certificate = certificate
	if err := r.publish(phone, phone.record(d.clock.Now()).Marshal()); err != nil {
		t.Errorf("the new client cannot publish: %v", err)
	}
	if err := r.offer(phone, []byte("a new offer"), nil); err != nil || string(r.links(alice)[0].GetOffer()) != "offer" {
		t.Errorf("an approved offer was replaced: %v", err)
	}
}

func TestLinkRules(t *testing.T) {
	t.Parallel()
	d := newDomain(t, "a.example")
	r := d.start()
	alice, bob := r.register("alice"), r.register("bob")
	phone := alice.another()
	for name, c := range map[string]struct {
		change func(*mimimiv1.OfferLinkRequest)
		offer  int
		code   connect.Code
	}{
		"no offer":          {nil, 0, connect.CodeInvalidArgument},
		"a long offer":      {nil, maxLinkOffer + 1, connect.CodeInvalidArgument},
		"a short key":       {func(q *mimimiv1.OfferLinkRequest) { q.SignatureKey = q.SignatureKey[1:] }, 1, connect.CodeInvalidArgument},
		"another key":       {func(q *mimimiv1.OfferLinkRequest) { q.SignatureKey = bob.key.Public() }, 1, connect.CodePermissionDenied},
		"another user":      {func(q *mimimiv1.OfferLinkRequest) { q.User = bob.user.Wire() }, 1, connect.CodePermissionDenied},
		"another client":    {func(q *mimimiv1.OfferLinkRequest) { q.Client = bob.client.Wire() }, 1, connect.CodePermissionDenied},
		"another domain":    {func(q *mimimiv1.OfferLinkRequest) { q.User = "mimi://b.example/u/alice" }, 1, connect.CodeInvalidArgument},
		"a pseudonym":       {func(q *mimimiv1.OfferLinkRequest) { q.User = must(mimimi.NewUserPseudonym(d.name)).Wire() }, 1, connect.CodeInvalidArgument},
		"a user for client": {func(q *mimimiv1.OfferLinkRequest) { q.Client = q.User }, 1, connect.CodeInvalidArgument},
		"unsigned":          {func(q *mimimiv1.OfferLinkRequest) { q.Signed = nil }, 1, connect.CodeInvalidArgument},
		"much too long":     {nil, maxAccountBody, connect.CodeResourceExhausted},
	} {
		wantCode(t, name, r.offer(phone, make([]byte, c.offer), c.change), c.code)
	}
	if n := len(r.links(alice)) + len(r.links(bob)); n != 0 {
		t.Fatalf("%d offers wait", n)
	}
	if err := r.offer(phone, make([]byte, maxLinkOffer), nil); err != nil {
		t.Fatal(err)
	}
	stranger := newPerson(d.name, "stranger")
	wantProblem(t, "approved by a stranger", r.approve(stranger, phone, []byte("x")), errAccountAuth)
	wantProblem(t, "approved by another user", r.approve(bob, phone, []byte("x")), errNoLink)
	wantProblem(t, "no answer", r.approve(alice, phone, nil), errAnswer)
	wantProblem(t, "a long answer", r.approve(alice, phone, make([]byte, maxLinkAnswer+1)), errAnswer)
	wantProblem(t, "no such offer", r.approve(alice, alice.another(), []byte("x")), errNoLink)
	swapped := *phone
	swapped.key = stranger.key
	wantProblem(t, "another key than offered", r.approve(alice, &swapped, []byte("x")), errNoLink)
	taken := alice.another()
	taken.client = bob.client
	if err := r.offer(taken, []byte("x"), nil); err != nil {
		t.Fatal(err)
	}
	wantProblem(t, "another user's client", r.approve(alice, taken, []byte("x")), errClientTaken)
	if err := r.approve(alice, phone, make([]byte, maxLinkAnswer)); err != nil {
		t.Fatal(err)
	}
	_, err := r.getLink(&swapped)
	wantProblem(t, "the answer for another key", err, errNoLink)
	wantProblem(t, "a package by another key", r.putPackage(&swapped, []byte("x")), errNoLink)
	wantProblem(t, "no package", r.putPackage(phone, nil), errPackage)
	wantProblem(t, "a long package", r.putPackage(phone, make([]byte, maxLinkPackage+1)), errPackage)
	if err := r.putPackage(phone, make([]byte, maxLinkPackage)); err != nil {
		t.Errorf("the longest package: %v", err)
	}
}

// TestLinkExpires: an offer waits for ten minutes, and so do an approval and a package after it.
func TestLinkExpires(t *testing.T) {
	t.Parallel()
	d := newDomain(t, "a.example")
	r := d.start()
	alice := r.register("alice")
	late, phone := alice.another(), alice.another()
	for _, p := range []*person{late, phone} {
		if err := r.offer(p, []byte("offer"), nil); err != nil {
			t.Fatal(err)
		}
	}
	d.clock.add(linkTime - 2*time.Second)
	if err := r.approve(alice, phone, []byte("answer")); err != nil {
		t.Fatal(err)
	}
	d.clock.add(2 * time.Second)
	if l := r.links(alice); len(l) != 1 || !l[0].GetApproved() {
		t.Errorf("%d links wait, want the approved one", len(l))
	}
	wantProblem(t, "an offer that has expired", r.approve(alice, late, []byte("answer")), errNoLink)
	if err := r.offer(late, []byte("offer"), nil); err != nil || len(r.links(alice)) != 2 {
		t.Errorf("the same offer once more: %v", err)
	}
	d.clock.add(linkTime - 4*time.Second)
	if err := r.putPackage(phone, []byte("package")); err != nil {
		t.Errorf("a package in time: %v", err)
	}
	d.clock.add(linkTime - 4*time.Second)
	if _, err := r.getLink(phone); err != nil {
		t.Errorf("the answer: %v", err)
	}
	d.clock.add(4 * time.Second)
	_, err := r.getLink(phone)
	wantProblem(t, "an approval that has expired", err, errNoLink)
	wantProblem(t, "a package for it", r.putPackage(phone, []byte("package")), errNoLink)
	if n := len(r.links(alice)); n != 0 {
		t.Errorf("%d links wait", n)
	}
}

// TestLinkMailboxIsFull: strangers fill the mailbox. The oldest offer gives way, an approved one does not, and whoever offers again is there again.
func TestLinkMailboxIsFull(t *testing.T) {
	t.Parallel()
	d := newDomain(t, "a.example")
	r := d.start()
	alice := r.register("alice")
	phone, tablet := alice.another(), alice.another()
	offer := func(p *person) {
		t.Helper()
		if err := r.offer(p, []byte("offer"), nil); err != nil {
			t.Fatal(err)
		}
	}
	offer(phone)
	if err := r.approve(alice, phone, []byte("answer")); err != nil {
		t.Fatal(err)
	}
	offer(tablet)
	waits := func(p *person) bool {
		return slices.ContainsFunc(r.links(alice), func(l *mimimiv1.Link) bool { return l.GetClient() == p.client.Wire() })
	}
	for range maxLinks - 2 {
		offer(alice.another())
	}
	if !waits(tablet) || len(r.links(alice)) != maxLinks {
		t.Fatal("an offer gave way before the mailbox was full")
	}
	offer(alice.another())
	if waits(tablet) || !waits(phone) || len(r.links(alice)) != maxLinks {
		t.Error("something else than the oldest offer gave way")
	}
	offer(tablet)
	if !waits(tablet) || r.approve(alice, tablet, []byte("answer")) != nil {
		t.Error("the offer made again is not there")
	}
	now := d.clock.Now()
	full := &mimimiv1.LinkMailbox{}
	for range maxLinks {
		full.Links = append(full.Links, &mimimiv1.LinkEntry{Client: "x", Touched: now.Unix(), Certificate: []byte("x")})
	}
	addOffer(full, &offerOf{client: phone.client, user: alice.user}, now)
	if len(full.GetLinks()) != maxLinks {
		t.Error("an approved link gave way, or the mailbox grew")
	}
}

type offerOf = offer

// TestLinkOfUnknownUser: a user who does not exist, or does no more, gets an offer answered like any other.
func TestLinkOfUnknownUser(t *testing.T) {
	t.Parallel()
	d := newDomain(t, "a.example")
	r := d.start()
	alice, gone := r.register("alice"), r.register("gone")
	if err := r.deleteAccount(gone); err != nil {
		t.Fatal(err)
	}
	var answers []string
	for _, p := range []*person{alice.another(), newPerson(d.name, "nobody"), gone.another()} {
		_, early := r.getLink(p)
		offered := r.offer(p, []byte("offer"), nil)
		_, open := r.getLink(p)
		answers = append(answers, fmt.Sprint(early, offered, open, r.putPackage(p, []byte("x"))))
	}
	if answers[1] != answers[0] || answers[2] != answers[0] {
		t.Errorf("the answers differ: %q", answers)
	}
	for range 3 * maxLinks {
		if err := r.offer(newPerson(d.name, "nobody"), []byte("offer"), nil); err != nil {
			t.Fatal(err)
		}
	}
	m, _, _, err := get[mimimiv1.LinkMailbox](t.Context(), r.bus, r.bus.Links(nobody))
	if err != nil || len(m.GetLinks()) != 1 {
		t.Errorf("nobody's mailbox holds %d offers: %v", len(m.GetLinks()), err)
	}
}

// TestApproveRace: all clients of a user approve at once, at two replicas, more offers than the account has room for. Each offer has one answer, and the
// account exactly the clients whose approval was taken.
func TestApproveRace(t *testing.T) {
	t.Parallel()
	d := newDomain(t, "a.example")
	replicas := []*replica{d.start(), d.start()}
	r := replicas[0]
	alice := r.register("alice")
	phone := r.link(alice)
	for range maxClients - 4 {
		r.link(alice)
		d.clock.add(linkTime)
	}
	offered := []*person{alice.another(), alice.another(), alice.another()}
	for _, p := range offered {
		if err := r.offer(p, []byte("offer"), nil); err != nil {
			t.Fatal(err)
		}
	}
	type outcome struct {
		linked *person
		answer string
		err    error
	}
	done := make(chan outcome)
	for i, by := range []*person{alice, phone} {
		for _, p := range offered {
			go func() {
				answer := fmt.Sprint("answer by ", i)
				var err error
				for range 20 { // a swap may be lost often
					if err = replicas[i].approve(by, p, []byte(answer)); connect.CodeOf(err) != connect.CodeUnavailable {
						break
					}
				}
				done <- outcome{p, answer, err}
			}()
		}
	}
	taken := make(map[*person][]string)
	for range 2 * len(offered) {
		o := <-done
		if o.err == nil {
			taken[o.linked] = append(taken[o.linked], o.answer)
		} else if code := connect.CodeOf(o.err); code != connect.CodePermissionDenied && code != connect.CodeResourceExhausted {
			t.Errorf("a loser: %v", o.err)
		}
	}
	certificates, err := r.clients(alice)
	if err != nil || len(certificates) != maxClients || len(taken) != 2 {
		t.Errorf("%d clients of %d, %d offers taken: %v", len(certificates), maxClients, len(taken), err)
	}
	for p, answers := range taken {
		got, err := replicas[1].getLink(p)
		if len(answers) != 1 || err != nil || string(got.GetSealedAnswer()) != answers[0] {
			t.Errorf("%d approvals were taken: %v", len(answers), err)
		}
		if !slices.ContainsFunc(certificates, func(c *mimimi.ClientCertificate) bool { return bytes.Equal(c.Marshal(), got.GetCertificate()) }) {
			t.Error("the certificate in the mailbox is not the account's")
		}
	}
	wantProblem(t, "an eleventh client", func() error {
		p := alice.another()
		if err := r.offer(p, []byte("offer"), nil); err != nil {
			return err
		}
		return r.approve(alice, p, []byte("answer"))
	}(), errManyClients)
}

// TestApproveAfterCrash: an approval that stopped after any of its writes is gone on with.
func TestApproveAfterCrash(t *testing.T) {
	t.Parallel()
	d := newDomain(t, "a.example")
	r := d.start()
	alice := r.register("alice")
	side := r.side()
	for _, steps := range []int{1, 2} {
		p := alice.another()
		if err := r.offer(p, []byte("offer"), nil); err != nil {
			t.Fatal(err)
		}
		half := &registration{user: p.user, client: p.client, key: p.key.Public()}
		if err := side.claimClient(t.Context(), half); err != nil {
			t.Fatal(err)
		}
		var certificate []byte
		if steps == 2 {
			certificate = must(side.admit(t.Context(), half, alice.client.Wire()))
		}
		if _, err := r.getLink(p); err == nil {
			t.Error("an answer before the approval is done")
		}
		if err := r.approve(alice, p, []byte("answer")); err != nil {
			t.Fatalf("the repeat after %d steps: %v", steps, err)
		}
		got, err := r.getLink(p)
		if err != nil || certificate != nil && !bytes.Equal(got.GetCertificate(), certificate) {
			t.Errorf("after %d steps: another certificate, %v", steps, err)
		}
	}
}
