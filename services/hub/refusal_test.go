package hub

import (
	"testing"

	"connectrpc.com/connect"
	"google.golang.org/protobuf/proto"

	pb "mimimi.example/api/mimimi/v1"
	"mimimi.example/pkg/mimimi"
	"mimimi.example/pkg/mls"
)

// TestCommitRefused breaks what the hub checks of a bundle, one thing at a time. It is one table.
func TestCommitRefused(t *testing.T) {
	t.Parallel()
	b := testBus(t)
	const invalid, denied, stale = connect.CodeInvalidArgument, connect.CodePermissionDenied, connect.CodeAborted
	for _, c := range []struct {
		name string
		code connect.Code
		want string
		rq   func(w *world) *pb.CommitRequest
	}{
		{"request id", invalid, "request id", func(w *world) *pb.CommitRequest {
			rq := w.pathBundle("bob").rq
			rq.RequestId = nil
			return rq
		}},
		{"no commit", invalid, "missing", func(w *world) *pb.CommitRequest {
			rq := w.pathBundle("bob").rq
			rq.Commit = nil
			return rq
		}},
		{"oversize", invalid, "larger", func(w *world) *pb.CommitRequest {
			rq := w.pathBundle("bob").rq
			rq.Commit = make([]byte, maxCommit+1)
			return rq
		}},
		{"oversize Welcome", invalid, "larger", func(w *world) *pb.CommitRequest {
			rq := w.pathBundle("bob").rq
			rq.Welcome = make([]byte, maxWelcome+1)
			return rq
		}},
		{"garbage", invalid, "malformed", func(w *world) *pb.CommitRequest {
			rq := w.pathBundle("bob").rq
			rq.Commit = append([]byte{0, 1, 0, 1}, random(300)...)
			return rq
		}},
		{"trailing bytes", invalid, "malformed", func(w *world) *pb.CommitRequest {
			rq := w.pathBundle("bob").rq
			rq.Commit = append(rq.Commit, 0)
			return rq
		}},
		{"PrivateMessage", invalid, "wire format", func(w *world) *pb.CommitRequest {
			return w.bundle("bob", mls.CommitOptions{Path: true, Private: true}).rq
		}},
		{"a proposal", invalid, "wire format", func(w *world) *pb.CommitRequest {
			rq := w.pathBundle("bob").rq
			rq.Commit = w.proposal("bob", selfRemove).Proposal
			return rq
		}},
		{"another group", invalid, "for the group", func(w *world) *pb.CommitRequest {
			other := newWorld(t, b, "bob")
			rq := other.pathBundle("bob").rq
			rq.GroupId = []byte(w.id.Wire())
			return rq
		}},
		{"unknown group", connect.CodeNotFound, "no such group", func(w *world) *pb.CommitRequest {
			rq := w.pathBundle("bob").rq
			rq.GroupId = []byte(must(mimimi.NewGroupID(hubDomain)).Wire())
			return rq
		}},
		{"old epoch", stale, "moved on", func(w *world) *pb.CommitRequest {
			rq := w.pathBundle("bob").rq
			w.update("alice")
			return rq
		}},
		{"signature", denied, "signature", func(w *world) *pb.CommitRequest {
			rq := w.pathBundle("bob").rq
			i := len(rq.Commit) - 33 - 33 - 10 // in the signature, which stands before confirmation and membership tag
			rq.Commit[i] ^= 1
			return rq
		}},
		{"wrong queue domain", invalid, "", func(w *world) *pb.CommitRequest {
			return w.strangeAdd(w.elsewhere("carol"))
		}},
		{"own user pseudonym for another's leaf", invalid, "comes only from that user", func(w *world) *pb.CommitRequest {
			w.person("amy").pseudonym = w.person("alice").pseudonym
			return w.addBundle("bob", "amy").rq
		}},
		{"expired KeyPackage", invalid, "lifetime", func(w *world) *pb.CommitRequest {
			return w.strangeAdd(w.newcomer("carol", func(c *mimimi.KeyPackageConfig) { c.Now = noon.AddDate(0, -4, 0) }))
		}},
		{"adds and removes", invalid, "both adds and removes", func(w *world) *pb.CommitRequest {
			n := w.newcomer("carol")
			remove := mls.Proposal{Type: mls.ProposalRemove, Removed: w.members["bob"].group.OwnIndex()}
			return w.bundle("alice", mls.CommitOptions{Proposals: append([]mls.Proposal{remove}, append(adds(n), w.linkUpdate("alice", n))...)}, n).rq
		}},
		{"not an admin", denied, "who may remove", func(w *world) *pb.CommitRequest {
			w.clock.advance(25 * 3600e9)
			return w.removeBundle("bob", "alice").rq
		}},
		{"no Welcome", invalid, "Welcome", func(w *world) *pb.CommitRequest {
			rq := w.addBundle("bob", "carol").rq
			rq.Welcome = nil
			return rq
		}},
		{"a Welcome without Adds", invalid, "Welcome", func(w *world) *pb.CommitRequest {
			rq := w.pathBundle("bob").rq
			rq.Welcome = w.addBundle("bob", "carol").rq.Welcome
			return rq
		}},
		{"a Welcome for one of two", invalid, "Welcome", func(w *world) *pb.CommitRequest {
			add := w.addBundle("bob", "carol", "dave")
			add.rq.Welcome = must(mls.SplitWelcome(add.rq.Welcome, add.news[1].kp.Ref()))
			return add.rq
		}},
		{"a Welcome for others", invalid, "Welcome", func(w *world) *pb.CommitRequest {
			rq := w.addBundle("bob", "carol").rq
			rq.Welcome = w.addBundle("bob", "dave").rq.Welcome
			return rq
		}},
		{"a bare Welcome", invalid, "", func(w *world) *pb.CommitRequest {
			rq := w.addBundle("bob", "carol").rq
			rq.Welcome = rq.Welcome[4:]
			return rq
		}},
		{"no GroupInfo", invalid, "missing", func(w *world) *pb.CommitRequest {
			rq := w.pathBundle("bob").rq
			rq.GroupInfo = nil
			return rq
		}},
		{"another commit's GroupInfo", invalid, "", func(w *world) *pb.CommitRequest {
			rq := w.pathBundle("bob").rq
			rq.GroupInfo = w.pathBundle("bob").rq.GroupInfo
			return rq
		}},
		{"this epoch's GroupInfo", invalid, "", func(w *world) *pb.CommitRequest {
			rq := w.pathBundle("bob").rq
			rq.GroupInfo = must(w.members["bob"].group.GroupInfo(must(hubExtensions(w.members["bob"].group)), false))
			return rq
		}},
		{"GroupInfo signed by another member", invalid, "signed by the committer", func(w *world) *pb.CommitRequest {
			p := w.pathBundle("bob")
			got := must(w.members["alice"].group.Process(p.rq.Commit, mls.ProcessOptions{}))
			next := got.Commit.Group()
			p.rq.GroupInfo = must(next.GroupInfo(must(hubExtensions(next)), false))
			return p.rq
		}},
		{"GroupInfo with identity_links", invalid, "nothing else", func(w *world) *pb.CommitRequest {
			return w.bundle("bob", mls.CommitOptions{Path: true, HubExtensions: func(next *mls.Group) ([]mls.Extension, error) {
				exts, err := hubExtensions(next)
				return append(exts, mimimi.MarshalIdentityLinks([]*mimimi.LinkKey{nil})), err
			}}).rq
		}},
		{"GroupInfo without epoch_sender_key", invalid, "nothing else", func(w *world) *pb.CommitRequest {
			return w.bundle("bob", mls.CommitOptions{Path: true, HubExtensions: func(*mls.Group) ([]mls.Extension, error) { return nil, nil }}).rq
		}},
	} {
		t.Run(c.name, func(t *testing.T) {
			w := newWorld(t, b, "bob")
			rq := c.rq(w)
			before := w.cold()
			_, err := w.hub.Commit(t.Context(), rq)
			wantCode(t, err, c.code, c.want)
			sameState(t, before, w.cold())
			w.update("alice") // the group goes on
		})
	}
}

// strangeAdd has bob, who does not look, add a KeyPackage that breaks a rule.
func (w *world) strangeAdd(n newcomer) *pb.CommitRequest {
	w.t.Helper()
	lax := must(mls.ParseGroup(w.members["bob"].group.Marshal(), laxRules()))
	w.members["lax"] = &member{person: w.person("bob"), group: lax}
	defer delete(w.members, "lax")
	return w.bundle("lax", mls.CommitOptions{Proposals: append(adds(n), w.linkUpdate("lax", n))}, n).rq
}

// elsewhere is a KeyPackage whose queue is at another domain than its pseudonyms.
func (w *world) elsewhere(name string) newcomer {
	w.t.Helper()
	p, b, key := w.person(name), w.provider("b.example"), must(mimimi.Suite.GenerateSignatureKey())
	credential := must(mimimi.NewPseudonymousCredential(mimimi.PseudonymConfig{
		ConnectionKey: p.connection, CertificateKey: p.certKey, Certificate: p.cert, ClientPseudonym: must(mimimi.NewClientPseudonym(p.name)),
		UserPseudonym: p.pseudonym, SignatureKey: key.Public(), Now: noon,
	}))
	queue := must(mimimi.SealQueueID(b.queueKey, must(mimimi.NewClientPseudonym(b.name)), mimimi.NewQueueID()))
	kp, keys, err := mls.NewKeyPackage(mls.KeyPackageConfig{
		Suite: mimimi.Suite, Credential: credential.Credential(), SignatureKey: key, Capabilities: mimimi.Capabilities(),
		Lifetime: mimimi.LeafLifetime(noon), LeafExtensions: []mls.Extension{{Type: mimimi.ExtensionEncryptedQueueID, Data: queue}},
	})
	ok(w.t, err)
	return newcomer{name, kp, keys}
}

// TestTruncations checks that no truncation of a commit bundle's parts is accepted or takes the hub down.
func TestTruncations(t *testing.T) {
	t.Parallel()
	w := newWorld(t, testBus(t), "bob")
	rq := w.addBundle("bob", "carol").rq
	g := w.warm()
	for _, part := range []func(*pb.CommitRequest) *[]byte{
		func(rq *pb.CommitRequest) *[]byte { return &rq.Commit },
		func(rq *pb.CommitRequest) *[]byte { return &rq.Welcome },
		func(rq *pb.CommitRequest) *[]byte { return &rq.GroupInfo },
	} {
		for n := range len(*part(rq)) {
			if n%17 != 0 && n > 40 {
				continue // staging a commit costs a millisecond
			}
			cut := proto.CloneOf(rq)
			*part(cut) = (*part(cut))[:n]
			if _, err := g.draftCommit(cut, noon.UnixMilli()); err == nil {
				t.Fatalf("accepted with a part cut to %d bytes", n)
			}
		}
	}
	if _, err := g.draftCommit(rq, noon.UnixMilli()); err != nil {
		t.Fatalf("the whole bundle is refused: %v", err)
	}
}

// FuzzEntry checks that no entry of the log makes the projection panic.
func FuzzEntry(f *testing.F) {
	f.Add([]byte{})
	e := &pb.GroupEntry{GroupId: []byte("mimi://hub.example/g/9f1c2c7e-6f0f-4b9c-8a2e-6d4a3b1f0e11"), Handshake: 1}
	e.Entry = &pb.GroupEntry_State{State: &pb.CheckpointEntry{Epochs: []*pb.EpochRecord{{Epoch: 1}}}}
	f.Add(must(proto.Marshal(e)))
	e.Entry = &pb.GroupEntry_Invitation{Invitation: &pb.InvitationEntry{Revoke: []byte("x")}}
	f.Add(must(proto.Marshal(e)))
	f.Fuzz(func(t *testing.T, b []byte) {
		e := new(pb.GroupEntry)
		if proto.Unmarshal(b, e) != nil {
			return
		}
		if g, err := fromCheckpoint(e, 1); err == nil {
			_, _ = g.apply(e, 2)
		}
		if c := e.GetState(); c != nil && len(c.Epochs) > 0 {
			placeOf(c).pass(e, 1)
		}
	})
}
