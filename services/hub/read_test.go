package hub

import (
	"bytes"
	"testing"
	"time"

	"connectrpc.com/connect"

	pb "mimimi.example/api/mimimi/v1"
	"mimimi.example/pkg/mimimi"
	"mimimi.example/pkg/mls"
)

var updateProposal = mls.Proposal{Type: mls.ProposalUpdate}

func TestGetGroup(t *testing.T) {
	t.Parallel()
	w := newWorld(t, testBus(t), "bob")
	w.propose("bob", updateProposal)
	byKey := w.leafProof("bob", mimimi.OpReadGroupInfo, nil)
	byKey.Leaf, byKey.LeafKey = nil, w.members["bob"].keys.SignatureKey.Public()
	message := w.send("alice", "hello")
	token := w.invite("alice", 1, time.Hour)
	for name, proof := range map[string]*pb.Proof{
		"leaf": w.leafProof("bob", mimimi.OpReadGroupInfo, nil), "epoch": w.epochProof("bob", mimimi.OpReadGroupInfo), "token": {JoinToken: token.Bytes()},
		"leaf key": byKey,
	} {
		t.Run(name, func(t *testing.T) {
			rs, err := w.hub.GetGroup(t.Context(), &pb.GetGroupRequest{GroupId: []byte(w.id.Wire()), Proof: proof})
			ok(t, err)
			public, err := mls.NewPublicGroup(rs.GroupInfo, rs.RatchetTree, mimimi.MLSRules())
			ok(t, err)
			if !bytes.Equal(public.GroupContext(), w.members["bob"].group.Public().GroupContext()) || rs.Epoch != 1 {
				t.Error("not the group's state")
			}
			if len(rs.PendingProposals) != 0 || rs.Sequence != message.Sequence {
				t.Error("an Update among the self_removes, or not its position")
			}
		})
	}
	old := w.epochProof("bob", mimimi.OpReadGroupInfo)
	w.update("alice")
	_, err := w.hub.GetGroup(t.Context(), &pb.GetGroupRequest{GroupId: []byte(w.id.Wire()), Proof: old})
	ok(t, err) // a remembered epoch
}

func TestReadRefused(t *testing.T) {
	t.Parallel()
	w := newWorld(t, testBus(t), "bob", "carol")
	carol := w.members["carol"]
	gone := map[string]*pb.Proof{"leaf": w.proofOf(carol, mimimi.OpReadGroupInfo, nil), "epoch": w.epochProof("carol", mimimi.OpReadGroupInfo)}
	w.offer(w.removeBundle("alice", "carol"))
	late := w.leafProof("bob", mimimi.OpReadGroupInfo, nil)
	late.Signed.Minute -= 11
	broken := w.leafProof("bob", mimimi.OpReadGroupInfo, nil)
	broken.Signed.Signature[3] ^= 1
	asEpoch := w.leafProof("bob", mimimi.OpReadGroupInfo, nil)
	asEpoch.Leaf = nil
	long := w.leafProof("bob", mimimi.OpReadGroupInfo, nil)
	long.Signed.Signature = make([]byte, maxSignature+1)
	anotherKey := w.leafProof("bob", mimimi.OpReadGroupInfo, nil)
	anotherKey.Leaf, anotherKey.LeafKey = nil, w.members["alice"].keys.SignatureKey.Public()
	unknownKey := w.leafProof("bob", mimimi.OpReadGroupInfo, nil)
	unknownKey.Leaf, unknownKey.LeafKey = nil, random(32)
	for name, proof := range map[string]*pb.Proof{
		"another's key": anotherKey, "unknown key": unknownKey,
		"none": nil, "empty": {}, "late": late, "broken": broken, "leaf as epoch": asEpoch, "long": long,
		"another operation": w.leafProof("bob", mimimi.OpReadTree, nil), "another body": w.leafProof("bob", mimimi.OpReadGroupInfo, []byte("x")),
		"removed leaf": gone["leaf"], "epoch before a removal": gone["epoch"], "unknown token": {JoinToken: random(32)}, "garbage token": {JoinToken: random(5)},
	} {
		t.Run(name, func(t *testing.T) {
			_, err := w.hub.GetGroup(t.Context(), &pb.GetGroupRequest{GroupId: []byte(w.id.Wire()), Proof: proof})
			wantCode(t, err, connect.CodePermissionDenied, "protocol §")
		})
	}
	token := w.invite("alice", 1, time.Hour)
	_, err := w.hub.ReadLog(t.Context(), &pb.ReadLogRequest{GroupId: []byte(w.id.Wire()), Proof: &pb.Proof{JoinToken: token.Bytes()}})
	wantCode(t, err, connect.CodePermissionDenied, "a read takes")
}

func TestGetTree(t *testing.T) {
	t.Parallel()
	b := testBus(t)
	w := newWorld(t, b)
	type moment struct {
		epoch, sequence uint64
		tree            []byte
		bob             *pb.Proof
	}
	added := w.add("alice", "bob")
	entry := moment{1, added.Sequence, w.members["bob"].group.Public().Tree(), w.leafProof("bob", mimimi.OpReadTree, nil)}
	for range 2*checkpointEvery + 5 {
		w.update("alice")
	}
	if g := w.warm(); g.checkpoint < added.Sequence {
		t.Fatal("no checkpoint was made")
	}
	for name, hub := range map[string]*server{"warm": w.hub, "cold": newReplica(t, b, w.clock)} {
		for position, sequence := range map[string]uint64{"with position": entry.sequence, "without": 0, "wrong position": entry.sequence + 3} {
			t.Run(name+" "+position, func(t *testing.T) {
				rs, err := hub.GetTree(t.Context(), &pb.GetTreeRequest{GroupId: []byte(w.id.Wire()), Epoch: 1, Proof: entry.bob, Sequence: sequence})
				ok(t, err)
				if !bytes.Equal(rs.RatchetTree, entry.tree) {
					t.Error("not that epoch's tree")
				}
			})
		}
	}
	rs, err := w.hub.GetTree(t.Context(), &pb.GetTreeRequest{GroupId: []byte(w.id.Wire()), Epoch: w.warm().epoch(), Proof: entry.bob})
	ok(t, err)
	if !bytes.Equal(rs.RatchetTree, w.warm().public.Tree()) {
		t.Error("not the current tree")
	}
	_, err = w.hub.GetTree(t.Context(), &pb.GetTreeRequest{GroupId: []byte(w.id.Wire()), Epoch: 0, Proof: entry.bob})
	wantCode(t, err, connect.CodePermissionDenied, "does not verify")
	_, err = w.hub.GetTree(t.Context(), &pb.GetTreeRequest{GroupId: []byte(w.id.Wire()), Epoch: w.warm().epoch() + 1, Proof: entry.bob})
	wantCode(t, err, connect.CodeNotFound, "has not had this epoch")
	_, err = w.hub.GetTree(t.Context(), &pb.GetTreeRequest{GroupId: []byte(w.id.Wire()), Epoch: 1, Proof: w.epochProof("bob", mimimi.OpReadTree)})
	wantCode(t, err, connect.CodePermissionDenied, "takes a leaf's")
}

func TestReadLog(t *testing.T) {
	t.Parallel()
	b := testBus(t)
	w := newWorld(t, b, "bob")
	start := w.warm().handshake
	want := []uint64{start}
	for range 3 {
		want = append(want, w.send("alice", "one").Sequence, w.send("bob", "two").Sequence)
		w.invite("alice", 1, time.Hour) // does not count
		want = append(want, w.propose("bob", updateProposal).Sequence, w.send("bob", "three").Sequence)
		w.clock.advance(time.Second)
		want = append(want, w.offer(w.bundle("alice", mls.CommitOptions{})).Sequence)
	}
	ok(t, w.hub.checkpoint(t.Context(), w.warm()))
	want = append(want, w.send("alice", "last").Sequence)

	all := w.readAll("bob", 0)
	previous := uint64(0)
	for i, d := range all {
		if i >= len(want) || d.Sequence != want[i] || d.Previous != previous {
			t.Fatalf("entry %d has sequence %d after %d, want %d after %d", i, d.Sequence, d.Previous, want[i], previous)
		}
		if d.Kind == pb.Delivery_KIND_COMMIT && (len(d.EpochSenderKey) != 32 || len(d.ExternalPub) == 0) || len(d.Message) == 0 || len(d.Recipients) > 0 {
			t.Errorf("entry %d lacks something", i)
		}
		previous = d.Sequence
	}
	if len(all) != len(want) {
		t.Fatalf("%d entries, want %d", len(all), len(want))
	}
	for after := uint64(1); after <= w.warm().last+1; after++ {
		i := 0
		for i < len(want) && want[i] <= after {
			i++
		}
		got := w.readAll("bob", after)
		if len(got) != len(want)-i {
			t.Fatalf("after %d: %d entries, want %d", after, len(got), len(want)-i)
		}
		if len(got) > 0 && i > 0 && got[0].Previous != want[i-1] {
			t.Fatalf("after %d: previous is %d, want %d", after, got[0].Previous, want[i-1])
		}
	}
}

// TestReadLogOfAnotherGroup checks that a position is no way to another group's entries.
func TestReadLogOfAnotherGroup(t *testing.T) {
	t.Parallel()
	b := testBus(t)
	w, other := newWorld(t, b, "bob"), newWorld(t, b, "bob")
	for _, after := range []uint64{other.warm().last, other.warm().handshake} {
		rs, err := w.hub.ReadLog(t.Context(), &pb.ReadLogRequest{GroupId: []byte(w.id.Wire()), After: after, Proof: w.leafProof("bob", mimimi.OpReadLog, nil)})
		if after < w.warm().last {
			wantCode(t, err, connect.CodeNotFound, "resync")
		} else if err != nil || len(rs.Entries) > 0 {
			t.Errorf("got %d entries, %v", len(rs.GetEntries()), err)
		}
	}
}
