package hub

import (
	"testing"
	"time"

	"connectrpc.com/connect"
	"google.golang.org/protobuf/proto"

	pb "mimimi.example/api/mimimi/v1"
	"mimimi.example/pkg/mimimi"
)

func TestSendMessage(t *testing.T) {
	t.Parallel()
	b := testBus(t)
	w := newWorld(t, b, "bob")
	rq := w.message("bob", "hello")
	first, err := w.hub.SendMessage(t.Context(), rq)
	ok(t, err)
	if first.Accepted != noon.Unix() {
		t.Error("not the acceptance time")
	}
	w.clock.advance(3 * time.Second)
	again, err := newReplica(t, b, w.clock).SendMessage(t.Context(), rq)
	ok(t, err)
	if !proto.Equal(first, again) {
		t.Errorf("a retry was answered %v, first %v", again, first)
	}
}

func TestSendMessageRefused(t *testing.T) {
	t.Parallel()
	b := testBus(t)
	for _, c := range []struct {
		name string
		code connect.Code
		want string
		rq   func(w *world) *pb.SendMessageRequest
	}{
		{"signature", connect.CodePermissionDenied, "epoch sender key", func(w *world) *pb.SendMessageRequest {
			rq := w.message("bob", "x")
			rq.Signature[0] ^= 1
			return rq
		}},
		{"another message's signature", connect.CodePermissionDenied, "epoch sender key", func(w *world) *pb.SendMessageRequest {
			rq := w.message("bob", "x")
			rq.Message = w.message("bob", "y").Message
			return rq
		}},
		{"another epoch in the request", connect.CodeInvalidArgument, "only a PrivateMessage", func(w *world) *pb.SendMessageRequest {
			rq := w.message("bob", "x")
			rq.Epoch++
			return rq
		}},
		{"another group's message", connect.CodeInvalidArgument, "only a PrivateMessage", func(w *world) *pb.SendMessageRequest {
			rq := w.message("bob", "x")
			rq.GroupId = []byte(must(mimimi.NewGroupID(hubDomain)).Wire())
			return rq
		}},
		{"a handshake", connect.CodeInvalidArgument, "only a PrivateMessage", func(w *world) *pb.SendMessageRequest {
			return w.signed(w.members["bob"], w.pathBundle("bob").rq.Commit)
		}},
		{"garbage", connect.CodeInvalidArgument, "malformed", func(w *world) *pb.SendMessageRequest {
			return w.signed(w.members["bob"], append([]byte{0, 1, 0, 2}, random(100)...))
		}},
		{"oversize", connect.CodeInvalidArgument, "larger", func(w *world) *pb.SendMessageRequest {
			return w.message("bob", string(make([]byte, maxMessage)))
		}},
		{"no request id", connect.CodeInvalidArgument, "request id", func(w *world) *pb.SendMessageRequest {
			rq := w.message("bob", "x")
			rq.RequestId = nil
			return rq
		}},
		{"another domain's group", connect.CodeNotFound, "no such group", func(w *world) *pb.SendMessageRequest {
			rq := w.message("bob", "x")
			rq.GroupId = []byte(must(mimimi.NewGroupID("other.example")).Wire())
			return rq
		}},
		{"old epoch", connect.CodeAborted, "moved on", func(w *world) *pb.SendMessageRequest {
			rq := w.message("bob", "x")
			w.update("alice")
			w.clock.advance(11 * time.Second)
			return rq
		}},
		{"epoch before a removal", connect.CodeAborted, "moved on", func(w *world) *pb.SendMessageRequest {
			rq := w.message("carol", "x")
			w.offer(w.removeBundle("alice", "carol"))
			return rq
		}},
	} {
		t.Run(c.name, func(t *testing.T) {
			w := newWorld(t, b, "bob", "carol")
			_, err := w.hub.SendMessage(t.Context(), c.rq(w))
			wantCode(t, err, c.code, c.want)
		})
	}
	w := emptyWorld(t, b)
	w.create()
	rq := w.message("alice", "x")
	unknown := must(mimimi.NewGroupID(hubDomain))
	_, err := w.hub.GetGroup(t.Context(), &pb.GetGroupRequest{GroupId: []byte(unknown.Wire()), Proof: w.leafProof("alice", mimimi.OpReadGroupInfo, nil)})
	wantCode(t, err, connect.CodeNotFound, "no such group")
	rq.GroupId = random(20)
	_, err = w.hub.SendMessage(t.Context(), rq)
	wantCode(t, err, connect.CodeInvalidArgument, "")
}

// TestLateMessage checks that a message of the epoch before counts for ten seconds, at a replica that learns of the new epoch late too.
func TestLateMessage(t *testing.T) {
	t.Parallel()
	b := testBus(t)
	w := newWorld(t, b, "bob")
	rq := w.message("bob", "late")
	behind := newReplica(t, b, w.clock)
	_ = must(behind.store.get(t.Context(), w.id))
	w.update("alice")
	w.clock.advance(10 * time.Second)
	rs, err := w.hub.SendMessage(t.Context(), rq)
	ok(t, err)
	if got := w.readAll("bob", 0); got[len(got)-1].Sequence != rs.Sequence {
		t.Error("the message does not count")
	}
	next := w.message("alice", "new epoch")
	_, err = behind.SendMessage(t.Context(), next)
	ok(t, err)
}

// TestMessageAfterRemovalDoesNotCount has a replica that is behind accept a removed member's message: the log says that it does not count.
func TestMessageAfterRemovalDoesNotCount(t *testing.T) {
	t.Parallel()
	b := testBus(t)
	w := newWorld(t, b, "bob", "carol")
	behind := newReplica(t, b, w.clock)
	_ = must(behind.store.get(t.Context(), w.id))
	late := w.message("carol", "not for you any more")
	removal := w.offer(w.removeBundle("alice", "carol"))
	rs, err := behind.SendMessage(t.Context(), late)
	ok(t, err)
	if rs.Sequence <= removal.Sequence {
		t.Fatal("the message stands before the removal")
	}
	last := w.update("bob")
	if last.Previous != removal.Sequence {
		t.Errorf("previous is %d, want the removal's %d", last.Previous, removal.Sequence)
	}
	for _, d := range w.readAll("bob", 0) {
		if d.Sequence == rs.Sequence {
			t.Error("the message is in the log that clients read")
		}
	}
}
