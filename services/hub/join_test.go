package hub

import (
	"errors"
	"testing"
	"time"

	"connectrpc.com/connect"

	pb "mimimi.example/api/mimimi/v1"
	"mimimi.example/pkg/mimimi"
	"mimimi.example/pkg/mls"
)

func TestExternalJoin(t *testing.T) {
	t.Parallel()
	b := testBus(t)
	w := newWorld(t, b)
	token := w.invite("alice", 2, time.Hour)
	sameState(t, w.warm(), w.cold())
	if n := len(w.warm().invitations); n != 1 {
		t.Fatalf("%d invitations, want 1", n)
	}
	join := w.joinBundle("bob", token)
	rs := w.offerJoin(join)
	if again, err := newReplica(t, b, w.clock).Commit(t.Context(), join.rq); err != nil || again.Sequence != rs.Sequence {
		t.Errorf("a retry of the join: %v", err)
	}
	sameState(t, w.warm(), w.cold())
	leaf := w.members["bob"].group.OwnIndex()
	if r := w.warm().roster[leaf]; r == nil || r.Domain != "b.example" {
		t.Error("the joiner is not delivered to")
	}

	_, err := w.hub.Commit(t.Context(), w.joinBundle("carol", token).rq)
	wantCode(t, err, connect.CodePermissionDenied, "the next external joiner waits")
	w.update("alice")
	w.offerJoin(w.joinBundle("carol", token))
	w.update("bob")
	_, err = w.hub.GetGroup(t.Context(), &pb.GetGroupRequest{GroupId: []byte(w.id.Wire()), Proof: &pb.Proof{JoinToken: token.Bytes()}})
	wantCode(t, err, connect.CodePermissionDenied, "no valid invitation")
	if len(w.members) != 3 || len(w.warm().invitations) != 0 {
		t.Error("both uses should be gone")
	}
	sameState(t, w.warm(), w.cold())
}

// TestJoinRefused breaks what the hub checks of an external join, one thing at a time: one table.
func TestJoinRefused(t *testing.T) {
	t.Parallel()
	b := testBus(t)
	for _, c := range []struct {
		name string
		code connect.Code
		want string
		do   func(w *world, token mimimi.JoinToken) error
	}{
		{"no token", connect.CodePermissionDenied, "no valid invitation", func(w *world, token mimimi.JoinToken) error {
			join := w.joinBundle("carol", token)
			join.rq.JoinToken = nil
			_, err := w.hub.Commit(t.Context(), join.rq)
			return err
		}},
		{"another token", connect.CodePermissionDenied, "no valid invitation", func(w *world, token mimimi.JoinToken) error {
			join := w.joinBundle("carol", token)
			join.rq.JoinToken = mimimi.NewInviteSecret().JoinToken().Bytes()
			_, err := w.hub.Commit(t.Context(), join.rq)
			return err
		}},
		{"garbage token", connect.CodePermissionDenied, "no valid invitation", func(w *world, token mimimi.JoinToken) error {
			join := w.joinBundle("carol", token)
			join.rq.JoinToken = random(31)
			_, err := w.hub.Commit(t.Context(), join.rq)
			return err
		}},
		{"token with a member's commit", connect.CodeInvalidArgument, "no other has either", func(w *world, token mimimi.JoinToken) error {
			p := w.pathBundle("bob")
			p.rq.JoinToken = token.Bytes()
			_, err := w.hub.Commit(t.Context(), p.rq)
			return err
		}},
		{"expired", connect.CodePermissionDenied, "no valid invitation", func(w *world, token mimimi.JoinToken) error {
			join := w.joinBundle("carol", token)
			w.clock.advance(time.Hour + time.Second)
			_, err := w.hub.Commit(t.Context(), join.rq)
			return err
		}},
		{"revoked", connect.CodePermissionDenied, "no valid invitation", func(w *world, token mimimi.JoinToken) error {
			join, hash := w.joinBundle("carol", token), token.Hash()
			rq := &pb.RevokeInvitationRequest{GroupId: []byte(w.id.Wire()), JoinTokenHash: hash[:], Proof: w.leafProof("bob", mimimi.OpRevokeInvitation, hash[:])}
			for range 2 {
				_, err := w.hub.RevokeInvitation(t.Context(), rq)
				ok(t, err)
			}
			_, err := w.hub.Commit(t.Context(), join.rq)
			return err
		}},
		{"voided by a removal", connect.CodePermissionDenied, "no valid invitation", func(w *world, token mimimi.JoinToken) error {
			w.offer(w.removeBundle("alice", "dave"))
			_, err := w.hub.GetGroup(t.Context(), &pb.GetGroupRequest{GroupId: []byte(w.id.Wire()), Proof: &pb.Proof{JoinToken: token.Bytes()}})
			return err
		}},
		{"voided by a self_remove", connect.CodePermissionDenied, "no valid invitation", func(w *world, token mimimi.JoinToken) error {
			w.propose("dave", selfRemove)
			w.offer(w.bundle("bob", mls.CommitOptions{}))
			_, err := w.hub.GetGroup(t.Context(), &pb.GetGroupRequest{GroupId: []byte(w.id.Wire()), Proof: &pb.Proof{JoinToken: token.Bytes()}})
			return err
		}},
		{"somebody else's user pseudonym", connect.CodeInvalidArgument, "comes only from that user", func(w *world, token mimimi.JoinToken) error {
			w.person("beth").pseudonym = w.person("bob").pseudonym
			_, err := w.hub.Commit(t.Context(), w.joinBundle("beth", token).rq)
			return err
		}},
		{"removes another", connect.CodeInvalidArgument, "keeps both pseudonyms", func(w *world, token mimimi.JoinToken) error {
			join := w.joinBundle("carol", token, func(c *mls.ExternalJoinConfig) {
				c.Resync, c.OldLeaf, c.Rules = true, w.members["bob"].group.OwnIndex(), laxRules()
			})
			_, err := w.hub.Commit(t.Context(), join.rq)
			return err
		}},
		{"resync with a token", connect.CodeInvalidArgument, "if and only if", func(w *world, token mimimi.JoinToken) error {
			r := w.resyncBundle("bob")
			r.rq.JoinToken, r.rq.ResyncSignature = token.Bytes(), nil
			_, err := w.hub.Commit(t.Context(), r.rq)
			return err
		}},
		{"left out a self_remove", connect.CodeAborted, "moved on", func(w *world, token mimimi.JoinToken) error {
			w.propose("dave", selfRemove)
			join := w.joinBundle("carol", token, func(c *mls.ExternalJoinConfig) { c.Pending = nil })
			_, err := w.hub.Commit(t.Context(), join.rq)
			return err
		}},
	} {
		t.Run(c.name, func(t *testing.T) {
			w := newWorld(t, b, "bob", "dave")
			token := w.invite("alice", 5, time.Hour)
			before := w.cold()
			wantCode(t, c.do(w, token), c.code, c.want)
			if c.code != connect.CodePermissionDenied && w.cold().epoch() != before.epoch() {
				t.Error("something was accepted")
			}
		})
	}
}

// TestJoinTakesUpSelfRemove checks an external join that takes up a pending self_remove, and so voids the invitation that it used.
func TestJoinTakesUpSelfRemove(t *testing.T) {
	t.Parallel()
	w := newWorld(t, testBus(t), "bob")
	token := w.invite("alice", 5, time.Hour)
	w.propose("bob", selfRemove)
	delete(w.members, "bob") // its self_remove is its own; it follows no further
	w.offerJoin(w.joinBundle("carol", token))
	if g := w.warm(); len(g.public.Members()) != 2 || len(g.invitations) != 0 || len(g.roster) != 2 {
		t.Error("unexpected members, roster or invitations")
	}
	sameState(t, w.warm(), w.cold())
}

func TestResync(t *testing.T) {
	t.Parallel()
	w := newWorld(t, testBus(t), "bob", "carol")
	w.invite("alice", 1, time.Hour)
	w.offerJoin(w.resyncBundle("bob"))
	w.update("carol")
	w.send("bob", "back again")
	g := w.warm()
	if len(g.public.Members()) != 3 || len(g.roster) != 3 || len(g.invitations) != 1 { // nobody has gone: invitations stay
		t.Error("unexpected members, roster or invitations")
	}
	sameState(t, g, w.cold())
}

func TestResyncRefused(t *testing.T) {
	t.Parallel()
	b := testBus(t)
	for _, c := range []struct {
		name string
		code connect.Code
		want string
		do   func(w *world) *bundle
	}{
		{"no proof", connect.CodePermissionDenied, "no valid invitation", func(w *world) *bundle {
			r := w.resyncBundle("bob")
			r.rq.ResyncSignature = nil
			return r
		}},
		{"another's key", connect.CodePermissionDenied, "resync proof", func(w *world) *bundle {
			r := w.resyncBundle("bob")
			r.rq.ResyncSignature = mimimi.SignResync(w.members["carol"].keys.SignatureKey, w.id, w.warm().epoch(), r.rq.Commit)
			return r
		}},
		{"of another epoch", connect.CodePermissionDenied, "resync proof", func(w *world) *bundle {
			r := w.resyncBundle("bob")
			r.rq.ResyncSignature = mimimi.SignResync(w.members["bob"].keys.SignatureKey, w.id, w.warm().epoch()+1, r.rq.Commit)
			return r
		}},
		{"another credential", connect.CodeInvalidArgument, "keeps both pseudonyms", func(w *world) *bundle {
			m := w.members["bob"]
			got, err := w.hub.GetGroup(t.Context(), &pb.GetGroupRequest{GroupId: []byte(w.id.Wire()), Proof: w.leafProof("bob", mimimi.OpReadGroupInfo, nil)})
			ok(t, err)
			r := w.externalBundle(w.newcomer("bob"), got, func(c *mls.ExternalJoinConfig) {
				c.Resync, c.OldLeaf, c.Rules = true, m.group.OwnIndex(), laxRules()
			})
			r.rq.ResyncSignature = mimimi.SignResync(m.keys.SignatureKey, w.id, got.Epoch, r.rq.Commit)
			return r
		}},
		{"proof without a Remove", connect.CodeInvalidArgument, "", func(w *world) *bundle {
			r := w.joinBundle("dave", w.invite("alice", 1, time.Hour))
			r.rq.JoinToken = nil
			r.rq.ResyncSignature = mimimi.SignResync(w.members["bob"].keys.SignatureKey, w.id, w.warm().epoch(), r.rq.Commit)
			return r
		}},
		{"both proofs", connect.CodeInvalidArgument, "one join token or one resync proof", func(w *world) *bundle {
			r := w.resyncBundle("bob")
			r.rq.JoinToken = w.invite("alice", 1, time.Hour).Bytes()
			return r
		}},
	} {
		t.Run(c.name, func(t *testing.T) {
			w := newWorld(t, b, "bob", "carol")
			_, err := w.hub.Commit(t.Context(), c.do(w).rq)
			wantCode(t, err, c.code, c.want)
		})
	}
}

func TestInvitationRefused(t *testing.T) {
	t.Parallel()
	b := testBus(t)
	token := mimimi.NewInviteSecret().JoinToken()
	for _, c := range []struct {
		name string
		code connect.Code
		want string
		rq   func(w *world) *pb.RegisterInvitationRequest
	}{
		{"no uses", connect.CodeInvalidArgument, "1 to 1,000 uses", func(w *world) *pb.RegisterInvitationRequest {
			return w.registration("bob", token, 0, noon.Add(time.Hour))
		}},
		{"too many uses", connect.CodeInvalidArgument, "1 to 1,000 uses", func(w *world) *pb.RegisterInvitationRequest {
			return w.registration("bob", token, maxUses+1, noon.Add(time.Hour))
		}},
		{"over", connect.CodeInvalidArgument, "90 days", func(w *world) *pb.RegisterInvitationRequest { return w.registration("bob", token, 1, noon) }},
		{"too long", connect.CodeInvalidArgument, "90 days", func(w *world) *pb.RegisterInvitationRequest {
			return w.registration("bob", token, 1, noon.Add(maxInvitationLife+time.Second))
		}},
		{"signed over another body", connect.CodePermissionDenied, "does not verify", func(w *world) *pb.RegisterInvitationRequest {
			rq := w.registration("bob", token, 1, noon.Add(time.Hour))
			rq.Uses = 2
			return rq
		}},
		{"by the epoch's key", connect.CodePermissionDenied, "takes a leaf's", func(w *world) *pb.RegisterInvitationRequest {
			rq := w.registration("bob", token, 1, noon.Add(time.Hour))
			rq.Proof.Leaf = nil
			return rq
		}},
		{"another's leaf", connect.CodePermissionDenied, "does not verify", func(w *world) *pb.RegisterInvitationRequest {
			rq := w.registration("bob", token, 1, noon.Add(time.Hour))
			*rq.Proof.Leaf = w.members["alice"].group.OwnIndex()
			return rq
		}},
		{"blank leaf", connect.CodePermissionDenied, "does not verify", func(w *world) *pb.RegisterInvitationRequest {
			rq := w.registration("bob", token, 1, noon.Add(time.Hour))
			*rq.Proof.Leaf = 1 << 31
			return rq
		}},
		{"too late", connect.CodePermissionDenied, "ten minutes", func(w *world) *pb.RegisterInvitationRequest {
			rq := w.registration("bob", token, 1, noon.Add(time.Hour))
			w.clock.advance(12 * time.Minute)
			return rq
		}},
		{"no proof", connect.CodeInvalidArgument, "request id", func(w *world) *pb.RegisterInvitationRequest {
			rq := w.registration("bob", token, 1, noon.Add(time.Hour))
			rq.Proof = nil
			return rq
		}},
		{"not a role that may", connect.CodePermissionDenied, "let this member invite", func(w *world) *pb.RegisterInvitationRequest {
			w.policy.MayInvite = mimimi.RoleAdmin
			w.offer(w.bundle("alice", mls.CommitOptions{Proposals: []mls.Proposal{{Type: mls.ProposalGroupContextExtensions, Extensions: mimimi.GroupExtensions(w.policy)}}}))
			return w.registration("bob", token, 1, noon.Add(time.Hour))
		}},
	} {
		t.Run(c.name, func(t *testing.T) {
			w := newWorld(t, b, "bob")
			_, err := w.hub.RegisterInvitation(t.Context(), c.rq(w))
			wantCode(t, err, c.code, c.want)
		})
	}
}

// TestInvitationKnownElsewhere checks that a replica that has not heard of an invitation asks the log before it denies it.
func TestInvitationKnownElsewhere(t *testing.T) {
	t.Parallel()
	b := testBus(t)
	w := newWorld(t, b)
	other := newReplica(t, b, w.clock)
	_ = must(other.store.get(t.Context(), w.id)) // cached, without the invitation
	join := w.joinBundle("bob", w.invite("alice", 1, time.Hour))
	_, err := other.Commit(t.Context(), join.rq)
	ok(t, err)
}

// laxRules let a client make what mimimi's leaf rules would keep it from making.
func laxRules() *mls.Rules {
	r := mimimi.MLSRules()
	r.CheckLeaf = nil
	return r
}

// TestInvitationsAreBounded checks that invitations which are over leave the state, and that there cannot be too many.
func TestInvitationsAreBounded(t *testing.T) {
	t.Parallel()
	w := newWorld(t, testBus(t), "bob")
	w.invite("bob", 1, time.Minute)
	w.clock.advance(2 * time.Minute)
	w.update("alice")
	if n := len(w.warm().invitations); n != 0 {
		t.Errorf("%d invitations are left, want none", n)
	}
	sameState(t, w.warm(), w.cold())

	full := w.warm().clone()
	full.invitations = map[string]invitation{}
	for range maxInvitations {
		full.invitations[string(random(joinTokenHashLen))] = invitation{uses: 1, notAfter: w.clock.now().Unix() + 60}
	}
	rq := w.registration("bob", mimimi.NewInviteSecret().JoinToken(), 1, w.clock.now().Add(time.Hour))
	if _, err := full.draftRegistration(rq, w.clock.now().UnixMilli(), w.clock.now()); !errors.Is(err, errTooManyInvites) {
		t.Errorf("got %v, want a refusal for too many", err)
	}
}
