package hub

import (
	"bytes"
	"testing"
	"time"

	"connectrpc.com/connect"
	"google.golang.org/protobuf/proto"

	pb "mimimi.example/api/mimimi/v1"
	"mimimi.example/pkg/mimimi"
	"mimimi.example/pkg/mls"
)

func TestCreate(t *testing.T) {
	t.Parallel()
	b := testBus(t)
	w := emptyWorld(t, b)
	rq, m := w.creation()
	first, err := w.hub.CreateGroup(t.Context(), rq)
	ok(t, err)
	again, err := newReplica(t, b, w.clock).CreateGroup(t.Context(), rq)
	ok(t, err)
	if again.Sequence != first.Sequence {
		t.Error("a retry of the creation was answered otherwise")
	}
	w.members["alice"] = m
	w.update("alice")
	if again, err = newReplica(t, b, w.clock).CreateGroup(t.Context(), rq); err != nil || again.Sequence != first.Sequence {
		t.Errorf("a late retry of the creation: %v", err)
	}
	other := proto.CloneOf(rq)
	other.RequestId = random(16)
	_, err = w.hub.CreateGroup(t.Context(), other)
	wantCode(t, err, connect.CodePermissionDenied, "never used twice")
	sameState(t, w.warm(), w.cold())
}

func TestCreateRefused(t *testing.T) {
	t.Parallel()
	b := testBus(t)
	for _, c := range []struct {
		name, want string
		change     func(w *world)
		request    func(w *world, rq *pb.CreateGroupRequest, m *member)
	}{
		{name: "request id", want: "request id", request: func(_ *world, rq *pb.CreateGroupRequest, _ *member) { rq.RequestId = random(15) }},
		{name: "no tree", want: "missing", request: func(_ *world, rq *pb.CreateGroupRequest, _ *member) { rq.RatchetTree = nil }},
		{name: "garbage", want: "malformed", request: func(_ *world, rq *pb.CreateGroupRequest, _ *member) {
			rq.GroupInfo = append([]byte{0, 1, 0, 4}, random(500)...)
		}},
		{name: "garbage tree", want: "malformed", request: func(_ *world, rq *pb.CreateGroupRequest, _ *member) { rq.RatchetTree = random(500) }},
		{name: "oversize", want: "larger", request: func(_ *world, rq *pb.CreateGroupRequest, _ *member) { rq.GroupInfo = make([]byte, maxGroupInfo+1) }},
		{name: "another domain", want: "the hub that its id names", change: func(w *world) { w.id = must(mimimi.NewGroupID("other.example")) }},
		{name: "identity links", want: "nothing else", request: func(_ *world, rq *pb.CreateGroupRequest, m *member) {
			exts := append(must(hubExtensions(m.group)), mimimi.MarshalIdentityLinks([]*mimimi.LinkKey{nil}))
			rq.GroupInfo = must(m.group.GroupInfo(exts, false))
		}},
		{name: "tree in the GroupInfo", want: "nothing else", request: func(_ *world, rq *pb.CreateGroupRequest, m *member) {
			rq.GroupInfo = must(m.group.GroupInfo(must(hubExtensions(m.group)), true))
		}},
		{name: "later epoch", want: "epoch 0", request: func(_ *world, rq *pb.CreateGroupRequest, m *member) {
			ok(t, m.group.Merge(must(m.group.Commit(mls.CommitOptions{Path: true}))))
			rq.GroupInfo, rq.RatchetTree = must(m.group.GroupInfo(must(hubExtensions(m.group)), false)), m.group.Public().Tree()
		}},
		{name: "cipher suite", want: "another version or cipher suite", request: func(w *world, rq *pb.CreateGroupRequest, m *member) {
			g := groupOfSuite(t, w.id, mls.P256_AES128GCM_SHA256_P256)
			rq.GroupInfo, rq.RatchetTree = must(g.GroupInfo(must(hubExtensions(m.group)), false)), g.Public().Tree()
		}},
	} {
		t.Run(c.name, func(t *testing.T) {
			w := emptyWorld(t, b)
			if c.change != nil {
				c.change(w)
			}
			rq, m := w.creation()
			if c.request != nil {
				c.request(w, rq, m)
			}
			_, err := w.hub.CreateGroup(t.Context(), rq)
			wantCode(t, err, connect.CodeInvalidArgument, c.want)
		})
	}
}

// groupOfSuite makes a group of a suite that pkg/mls has and the protocol does not.
func groupOfSuite(t *testing.T, id mimimi.GroupID, cs mls.CipherSuite) *mls.Group {
	t.Helper()
	kp, keys, err := mls.NewKeyPackage(mls.KeyPackageConfig{
		Suite: cs, Credential: mls.Credential{Type: mls.CredentialBasic, Body: []byte{1, 'a'}}, SignatureKey: must(cs.GenerateSignatureKey()),
		Capabilities: mls.Capabilities{
			Versions: []uint16{1}, CipherSuites: []mls.CipherSuite{cs}, Credentials: []mls.CredentialType{mls.CredentialBasic},
		},
		Lifetime: mimimi.LeafLifetime(noon),
	})
	ok(t, err)
	return must(mls.NewGroup(mls.GroupConfig{GroupID: []byte(id.Wire()), KeyPackage: kp, Secrets: keys}))
}

func TestCommits(t *testing.T) {
	t.Parallel()
	w := newWorld(t, testBus(t), "bob", "carol")
	w.clock.advance(1500 * time.Millisecond)
	up := w.update("bob")
	if up.Accepted != noon.Unix()+1 || up.Previous == 0 || up.Previous >= up.Sequence {
		t.Errorf("unexpected answer %v", up)
	}
	m := w.send("carol", "hello")
	if next := w.update("alice"); next.Previous != m.Sequence {
		t.Errorf("previous is %d, want the message's %d", next.Previous, m.Sequence)
	}
	w.offer(w.removeBundle("alice", "carol"))
	g := w.warm()
	if len(g.roster) != 2 || len(g.public.Members()) != 2 || g.epoch() != 4 {
		t.Error("the removal did not take effect")
	}
	for _, by := range []string{"alice", "bob"} {
		if !bytes.Equal(w.members[by].group.Public().GroupContext(), g.public.GroupContext()) {
			t.Error("hub and members disagree")
		}
	}
	sameState(t, g, w.cold())
}

func TestCommitRetried(t *testing.T) {
	t.Parallel()
	b := testBus(t)
	w := newWorld(t, b, "bob")
	message := w.send("bob", "before")
	p := w.pathBundle("bob")
	first := w.offer(p)
	if first.Previous != message.Sequence {
		t.Fatal("previous is not the message")
	}
	w.send("alice", "after")
	w.update("alice")
	for name, hub := range map[string]*server{"same replica": w.hub, "another": newReplica(t, b, w.clock)} {
		t.Run(name, func(t *testing.T) {
			again, err := hub.Commit(t.Context(), p.rq)
			ok(t, err)
			if !proto.Equal(again, first) {
				t.Errorf("got %v, first %v", again, first)
			}
		})
	}
	other := proto.CloneOf(p.rq)
	other.RequestId = random(16)
	_, err := w.hub.Commit(t.Context(), other)
	wantStale(t, err, w.warm().epoch(), w.warm().handshake)
	used := w.proposal("bob", selfRemove)
	used.RequestId = p.rq.RequestId
	_, err = w.hub.Propose(t.Context(), used)
	wantCode(t, err, connect.CodeInvalidArgument, "request id")
}

func TestSelfRemove(t *testing.T) {
	t.Parallel()
	b := testBus(t)
	w := newWorld(t, b, "bob", "carol")
	before := w.pathBundle("carol")
	bob := w.members["bob"]
	rs := w.propose("bob", selfRemove)
	if _, delivered := w.warm().roster[bob.group.OwnIndex()]; delivered {
		t.Error("a leaving member is still delivered to")
	}
	sameState(t, w.warm(), w.cold())

	_, err := w.hub.Commit(t.Context(), before.rq)
	wantStale(t, err, 1, rs.Sequence)
	_, err = w.hub.Propose(t.Context(), &pb.ProposeRequest{RequestId: random(16), GroupId: []byte(w.id.Wire()), Proposal: must(bob.group.Propose(mls.Proposal{Type: mls.ProposalUpdate}, mls.ProposeOptions{}))})
	wantCode(t, err, connect.CodePermissionDenied, "not leaving")
	_, err = w.hub.RegisterInvitation(t.Context(), w.registration("bob", mimimi.NewInviteSecret().JoinToken(), 1, noon.Add(time.Hour)))
	wantCode(t, err, connect.CodePermissionDenied, "invite")

	w.offer(w.bundle("carol", mls.CommitOptions{}))
	if _, still := w.members["bob"]; still || len(w.warm().public.Members()) != 2 {
		t.Error("bob is still there")
	}
	sameState(t, w.warm(), w.cold())
}

func TestProposeRefused(t *testing.T) {
	t.Parallel()
	w := newWorld(t, testBus(t), "bob")
	old := w.proposal("bob", mls.Proposal{Type: mls.ProposalUpdate})
	w.update("alice")
	_, err := w.hub.Propose(t.Context(), old)
	wantStale(t, err, w.warm().epoch(), w.warm().handshake)

	_, err = w.hub.Propose(t.Context(), w.proposal("bob", mls.Proposal{Type: mls.ProposalRemove, Removed: w.members["alice"].group.OwnIndex()}))
	wantCode(t, err, connect.CodePermissionDenied, "who may remove")
	rq := w.proposal("alice", mls.Proposal{Type: mls.ProposalUpdate})
	_, err = w.hub.Propose(t.Context(), rq)
	ok(t, err)
	rq.RequestId = random(16)
	_, err = w.hub.Propose(t.Context(), rq)
	wantCode(t, err, connect.CodeInvalidArgument, "pending already")
	rq.Proposal = make([]byte, maxProposal+1)
	_, err = w.hub.Propose(t.Context(), rq)
	wantCode(t, err, connect.CodeInvalidArgument, "larger")
}

// TestPendingBound checks that nobody fills an epoch with proposals, nor keeps another from leaving by trying.
func TestPendingBound(t *testing.T) {
	t.Parallel()
	w := newWorld(t, testBus(t), "bob")
	var err error
	for range maxPendingOthers {
		_, err = w.hub.Propose(t.Context(), w.proposal("bob", mls.Proposal{Type: mls.ProposalUpdate}))
		ok(t, err)
	}
	_, err = w.hub.Propose(t.Context(), w.proposal("bob", mls.Proposal{Type: mls.ProposalUpdate}))
	wantCode(t, err, connect.CodeResourceExhausted, "pending")
	_, err = w.hub.Propose(t.Context(), &pb.ProposeRequest{RequestId: random(16), GroupId: []byte(w.id.Wire()), Proposal: must(w.members["alice"].group.Propose(selfRemove, mls.ProposeOptions{}))})
	ok(t, err)
	sameState(t, w.warm(), w.cold())
}
