package main

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"testing"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/reflect/protoreflect"
	"google.golang.org/protobuf/reflect/protoregistry"

	"mimimi.example/test/interop/mlsclient/pb"
)

// newMessage makes an empty message of a type.
func newMessage(t *testing.T, d protoreflect.MessageDescriptor) proto.Message {
	t.Helper()
	kind, err := protoregistry.GlobalTypes.FindMessageByName(d.FullName())
	if err != nil {
		t.Fatal(err)
	}
	return kind.New().Interface()
}

// input fills requests with what stands in other requests, or nowhere.
type input struct {
	r     *rand.Rand
	ids   []uint32
	bytes [][]byte
}

func (in *input) fill(m protoreflect.Message) {
	fields := m.Descriptor().Fields()
	for i := range fields.Len() {
		f := fields.Get(i)
		if !f.IsList() {
			m.Set(f, in.value(f, m.NewField))
			continue
		}
		list := m.Mutable(f).List()
		for range in.r.IntN(3) {
			list.Append(in.value(f, func(protoreflect.FieldDescriptor) protoreflect.Value { return list.NewElement() }))
		}
	}
}

// value makes a value of a field, or an element of a list. empty makes an empty message.
func (in *input) value(f protoreflect.FieldDescriptor, empty func(protoreflect.FieldDescriptor) protoreflect.Value) protoreflect.Value {
	switch f.Kind() {
	case protoreflect.BoolKind:
		return protoreflect.ValueOfBool(in.r.IntN(2) == 0)
	case protoreflect.Uint32Kind:
		return protoreflect.ValueOfUint32(in.ids[in.r.IntN(len(in.ids))])
	case protoreflect.Uint64Kind:
		return protoreflect.ValueOfUint64(uint64(in.ids[in.r.IntN(len(in.ids))]))
	case protoreflect.StringKind:
		return protoreflect.ValueOfString("label")
	case protoreflect.BytesKind:
		b := in.bytes[in.r.IntN(len(in.bytes))]
		if len(b) > 0 && in.r.IntN(4) == 0 {
			b = append([]byte{}, b...)
			b[in.r.IntN(len(b))] ^= 1
		}
		return protoreflect.ValueOfBytes(b)
	}
	v := empty(f)
	in.fill(v.Message())
	return v
}

// TestAnyInput calls every RPC with what does not belong there. Each answer is a status that says so, and the server goes on.
func TestAnyInput(t *testing.T) {
	conn := dial(t)
	rpc := pb.NewMLSClientClient(conn)
	s := &script{t: t, suite: uint32(suites[0]), clients: []pb.MLSClientClient{rpc}, actors: map[string]*actor{}, psks: map[string][]byte{}}
	s.create("alice", "bob")
	kp := s.publish("carol")
	alice, bob := s.of("alice"), s.of("bob")
	info := ok(rpc.GroupInfo(t.Context(), &pb.GroupInfoRequest{StateId: bob.state, ExternalTree: true}))(s)
	signer := s.addSigner("bob", "hub")
	commit := ok(rpc.Commit(t.Context(), &pb.CommitRequest{StateId: bob.state, ByValue: []*pb.ProposalDescription{addOf(kp)}}))(s)
	in := &input{
		r:   rand.New(rand.NewPCG(1, 1)),
		ids: []uint32{0, 1, alice.state, bob.state, s.of("carol").transaction, s.of("hub").signer, 1 << 16, 1<<32 - 1},
		bytes: [][]byte{
			nil, {0}, []byte("garbage"), kp, info.GroupInfo, info.RatchetTree, signer, commit.Commit, commit.Welcome, []byte("alice"),
			[]byte("add"), []byte("remove"), []byte("externalPSK"), []byte("resumptionPSK"), []byte("groupContextExtensions"), []byte("reinit"),
		},
	}
	count := map[codes.Code]int{}
	methods := pb.File_mls_client_proto.Services().ByName("MLSClient").Methods()
	for i := range methods.Len() {
		m := methods.Get(i)
		for n := range 40 {
			rq, rs := newMessage(t, m.Input()), newMessage(t, m.Output())
			if n > 0 { // the first one is empty
				in.fill(rq.ProtoReflect())
			}
			if m.Name() == "Free" && n > 0 {
				rq.(*pb.FreeRequest).StateId = 1 << 16 // the others are still needed
			}
			err := conn.Invoke(t.Context(), fmt.Sprintf("/%s/%s", m.Parent().FullName(), m.Name()), rq, rs)
			code := status.Code(err)
			count[code]++
			switch code {
			case codes.Internal, codes.Unknown, codes.Unavailable, codes.DeadlineExceeded, codes.ResourceExhausted:
				t.Fatalf("%s: %v", m.Name(), err)
			}
		}
	}
	for _, code := range []codes.Code{codes.OK, codes.NotFound, codes.InvalidArgument, codes.FailedPrecondition, codes.Unimplemented} {
		if count[code] == 0 {
			t.Errorf("no answer was %v: %v", code, count)
		}
	}
	ok(rpc.Name(t.Context(), &pb.NameRequest{}))(s)
}

// TestPanic checks that a bug in one call is an answer to it, and not the end of the server.
func TestPanic(t *testing.T) {
	s := newServer("test")
	for range 2 {
		_, err := s.answer(t.Context(), nil, new(grpc.UnaryServerInfo), func(context.Context, any) (any, error) { panic("a bug") })
		if status.Code(err) != codes.Internal {
			t.Errorf("got %v", err)
		}
	}
}

func TestThings(t *testing.T) {
	th := newThings(3)
	var ids []uint32
	for i := range 3 {
		ids = append(ids, th.add(&signer{}))
		if ids[i] == 0 {
			t.Fatal("an id of 0")
		}
	}
	if _, err := get[*signer](th, ids[0]); err != nil { // is used, and so kept longer than the second
		t.Error(err)
	}
	th.add(&signer{})
	for i, want := range []error{nil, errUnknown, nil} {
		if _, err := get[*signer](th, ids[i]); !errors.Is(err, want) {
			t.Errorf("%d: got %v, want %v", i, err, want)
		}
	}
	if _, err := get[*member](th, ids[0]); !errors.Is(err, errUnknown) {
		t.Errorf("of another kind: %v", err)
	}
	if !th.drop(ids[0]) || th.drop(ids[0]) || len(th.byID) != 2 || th.used.Len() != 2 {
		t.Error("drop")
	}
	th.last = 1<<32 - 1
	if id := th.add(&signer{}); id == 0 || id == ids[2] {
		t.Errorf("an id that is in use: %d", id)
	}
}

// TestRefusals checks what the service refuses, of what the library alone would take.
func TestRefusals(t *testing.T) {
	rpc := pb.NewMLSClientClient(dial(t))
	s := &script{t: t, suite: uint32(suites[0]), clients: []pb.MLSClientClient{rpc}, actors: map[string]*actor{}, psks: map[string][]byte{}}
	s.create("alice", "bob")
	alice, bob := s.of("alice"), s.of("bob")
	want := func(what string, code codes.Code, err error) {
		t.Helper()
		if status.Code(err) != code {
			t.Errorf("%s: got %v, want %v", what, err, code)
		}
	}
	_, err := rpc.HandlePendingCommit(t.Context(), &pb.HandlePendingCommitRequest{StateId: alice.state})
	want("nothing pending", codes.FailedPrecondition, err)
	_, err = rpc.Commit(t.Context(), &pb.CommitRequest{StateId: alice.state, ByReference: [][]byte{s.propose("alice", pskOf([]byte("unknown")))}})
	want("a PSK that is not known", codes.FailedPrecondition, err)
	_, err = rpc.Commit(t.Context(), &pb.CommitRequest{StateId: alice.state, ByReference: [][]byte{s.propose("bob", removeOf("alice"))}})
	want("the committer's removal", codes.FailedPrecondition, err)
	_, err = rpc.Commit(t.Context(), &pb.CommitRequest{StateId: alice.state, ByValue: []*pb.ProposalDescription{kind("leave", nil)}})
	want("an unknown proposal", codes.InvalidArgument, err)
	made := ok(rpc.Commit(t.Context(), &pb.CommitRequest{StateId: alice.state}))(s)
	_, err = rpc.HandlePendingReInitCommit(t.Context(), &pb.HandlePendingCommitRequest{StateId: alice.state})
	want("no ReInit", codes.FailedPrecondition, err)
	_, err = rpc.HandleReInitCommit(t.Context(), &pb.HandleCommitRequest{StateId: bob.state, Commit: made.Commit})
	want("no ReInit", codes.FailedPrecondition, err)
	_, err = rpc.HandleCommit(t.Context(), &pb.HandleCommitRequest{StateId: bob.state, Commit: made.Commit})
	want("a commit of the epoch before", codes.FailedPrecondition, err)
	_, err = rpc.CreateGroup(t.Context(), &pb.CreateGroupRequest{CipherSuite: 0x10001})
	want("a suite of more than 16 bits", codes.InvalidArgument, err)
	_, err = rpc.CreateKeyPackage(t.Context(), &pb.CreateKeyPackageRequest{CipherSuite: 0x0FFF})
	want("a suite that nobody has", codes.Unimplemented, err)

	// A branch is not the successor, nor the other way round, nor is any other group.
	kp := s.publish("bob")
	branch := ok(rpc.CreateBranch(t.Context(), &pb.CreateBranchRequest{StateId: alice.state, GroupId: newID(), KeyPackages: [][]byte{kp}}))(s)
	tx := bob.transaction
	_, err = rpc.JoinGroup(t.Context(), &pb.JoinGroupRequest{TransactionId: tx, Welcome: branch.Welcome})
	want("a branch as any group", codes.Unimplemented, err)
	ok(rpc.HandleBranch(t.Context(), &pb.HandleBranchRequest{StateId: bob.state, TransactionId: tx, Welcome: branch.Welcome}))(s)
	_, err = rpc.HandleBranch(t.Context(), &pb.HandleBranchRequest{StateId: bob.state, TransactionId: tx, Welcome: branch.Welcome})
	want("the same KeyPackage again", codes.NotFound, err)
	other := ok(rpc.CreateGroup(t.Context(), &pb.CreateGroupRequest{GroupId: newID(), CipherSuite: s.suite, Identity: []byte("alice")}))(s)
	plain := ok(rpc.Commit(t.Context(), &pb.CommitRequest{StateId: other.StateId, ByValue: []*pb.ProposalDescription{addOf(s.publish("bob"))}}))(s)
	_, err = rpc.HandleBranch(t.Context(), &pb.HandleBranchRequest{StateId: bob.state, TransactionId: bob.transaction, Welcome: plain.Welcome})
	want("any group as a branch", codes.FailedPrecondition, err)
}
