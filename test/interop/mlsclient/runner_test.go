package main

import (
	"bytes"
	"context"
	"crypto/rand"
	"net"
	"path"
	"slices"
	"strings"
	"sync"
	"testing"

	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials/insecure"

	"mimimi.example/test/interop/mlsclient/pb"
)

// called is the RPCs that have been answered without an error, by all tests together.
var called struct {
	sync.Mutex
	names map[string]bool
}

func note(ctx context.Context, method string, rq, rs any, cc *grpc.ClientConn, invoke grpc.UnaryInvoker, opts ...grpc.CallOption) error {
	err := invoke(ctx, method, rq, rs, cc, opts...)
	if err == nil {
		called.Lock()
		defer called.Unlock()
		if called.names == nil {
			called.names = map[string]bool{}
		}
		called.names[path.Base(method)] = true
	}
	return err
}

// dial serves a new server on loopback and returns a client of it.
func dial(t testing.TB) *grpc.ClientConn {
	t.Helper()
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	s := newGRPC(newServer("test"))
	served := make(chan error, 1)
	go func() { served <- s.Serve(ln) }()
	conn, err := grpc.NewClient(ln.Addr().String(), grpc.WithTransportCredentials(insecure.NewCredentials()),
		grpc.WithUnaryInterceptor(note), grpc.WithDefaultCallOptions(grpc.MaxCallRecvMsgSize(maxMessage)))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		conn.Close()
		s.Stop()
		if err := <-served; err != nil {
			t.Error(err)
		}
	})
	return conn
}

// actor is one client of a script, at one of the servers.
type actor struct {
	name                      string
	rpc                       pb.MLSClientClient
	state, transaction, ended uint32
	signer                    uint32
	keyPackage                []byte // of the transaction
}

// script runs one scenario: what the public runner does with its files.
type script struct {
	t       testing.TB
	suite   uint32
	private bool
	clients []pb.MLSClientClient
	actors  map[string]*actor
	group   []byte // the group's id
	psks    map[string][]byte
}

// of returns a client. They are spread over the servers in the order in which they appear.
func (s *script) of(name string) *actor {
	a := s.actors[name]
	if a == nil {
		a = &actor{name: name, rpc: s.clients[len(s.actors)%len(s.clients)]}
		s.actors[name] = a
	}
	return a
}

// ok ends the test for an error.
func ok[T any](rs T, err error) func(s *script) T {
	return func(s *script) T {
		s.t.Helper()
		if err != nil {
			s.t.Fatal(err)
		}
		return rs
	}
}

func (s *script) ctx() context.Context { return s.t.Context() }

func newID() []byte {
	id := make([]byte, 16)
	rand.Read(id)
	return id
}

// create makes a group, whose members come in by one commit with Adds by value.
func (s *script) create(by string, members ...string) {
	s.t.Helper()
	a := s.of(by)
	s.group = newID()
	a.state = ok(a.rpc.CreateGroup(s.ctx(), &pb.CreateGroupRequest{
		GroupId: s.group, CipherSuite: s.suite, EncryptHandshake: s.private, Identity: []byte(by),
	}))(s).StateId
	if len(members) == 0 {
		return
	}
	var adds []*pb.ProposalDescription
	for _, name := range members {
		adds = append(adds, &pb.ProposalDescription{ProposalType: []byte("add"), KeyPackage: s.publish(name)})
	}
	s.commit(by, commitStep{byValue: adds, joiners: members})
}

// publish makes a KeyPackage.
func (s *script) publish(name string) []byte {
	s.t.Helper()
	a := s.of(name)
	rs := ok(a.rpc.CreateKeyPackage(s.ctx(), &pb.CreateKeyPackageRequest{CipherSuite: s.suite, Identity: []byte(name)}))(s)
	if len(rs.InitPriv) == 0 || len(rs.EncryptionPriv) == 0 || len(rs.SignaturePriv) == 0 {
		s.t.Fatal("a KeyPackage without its private keys")
	}
	a.transaction, a.keyPackage = rs.TransactionId, rs.KeyPackage
	return rs.KeyPackage
}

// commitStep is a commit that everyone takes.
type commitStep struct {
	byReference            [][]byte
	byValue                []*pb.ProposalDescription
	members                []string // who handle it
	joiners                []string
	forcePath, treeOutside bool
}

func (s *script) commit(by string, step commitStep) {
	s.t.Helper()
	a := s.of(by)
	made := ok(a.rpc.Commit(s.ctx(), &pb.CommitRequest{
		StateId: a.state, ByReference: step.byReference, ByValue: step.byValue, ForcePath: step.forcePath, ExternalTree: step.treeOutside,
	}))(s)
	if (len(made.RatchetTree) > 0) != step.treeOutside || len(step.joiners) > 0 && len(made.Welcome) == 0 {
		s.t.Fatal("what a commit comes with")
	}
	before := ok(a.rpc.StateAuth(s.ctx(), &pb.StateAuthRequest{StateId: a.state}))(s).StateAuthSecret
	got := ok(a.rpc.HandlePendingCommit(s.ctx(), &pb.HandlePendingCommitRequest{StateId: a.state}))(s)
	a.state = got.StateId
	if bytes.Equal(before, got.EpochAuthenticator) {
		s.t.Fatal("the commit was in force before it was handled")
	}
	for _, name := range step.members {
		m := s.of(name)
		rs := ok(m.rpc.HandleCommit(s.ctx(), &pb.HandleCommitRequest{StateId: m.state, Proposal: step.byReference, Commit: made.Commit}))(s)
		m.state = rs.StateId
		s.same(name, rs.EpochAuthenticator, got.EpochAuthenticator)
	}
	for _, name := range step.joiners {
		m := s.of(name)
		rs := ok(m.rpc.JoinGroup(s.ctx(), &pb.JoinGroupRequest{
			TransactionId: m.transaction, Welcome: made.Welcome, EncryptHandshake: s.private, Identity: []byte(name), RatchetTree: made.RatchetTree,
		}))(s)
		m.state = rs.StateId
		s.same(name, rs.EpochAuthenticator, got.EpochAuthenticator)
	}
}

func (s *script) same(name string, got, want []byte) {
	s.t.Helper()
	if !bytes.Equal(got, want) || len(got) == 0 {
		s.t.Fatalf("%s does not agree on the epoch", name)
	}
}

// joinExternal lets a client join, or join anew, by what a member tells it.
func (s *script) joinExternal(member, joiner string, change func(rq *pb.ExternalJoinRequest), treeOutside bool, members ...string) {
	s.t.Helper()
	m, j := s.of(member), s.of(joiner)
	info := ok(m.rpc.GroupInfo(s.ctx(), &pb.GroupInfoRequest{StateId: m.state, ExternalTree: treeOutside}))(s)
	if (len(info.RatchetTree) > 0) != treeOutside {
		s.t.Fatal("where the tree is")
	}
	rq := &pb.ExternalJoinRequest{GroupInfo: info.GroupInfo, RatchetTree: info.RatchetTree, EncryptHandshake: s.private, Identity: []byte(joiner)}
	if change != nil {
		change(rq)
	}
	made := ok(j.rpc.ExternalJoin(s.ctx(), rq))(s)
	j.state = made.StateId
	for _, name := range append(members, member) {
		m := s.of(name)
		rs := ok(m.rpc.HandleCommit(s.ctx(), &pb.HandleCommitRequest{StateId: m.state, Commit: made.Commit}))(s)
		m.state = rs.StateId
		s.same(name, rs.EpochAuthenticator, made.EpochAuthenticator)
	}
}

// psk gives clients a PSK and returns its id.
func (s *script) psk(names ...string) []byte {
	s.t.Helper()
	id := newID()
	s.psks[string(id)] = newID()
	for _, name := range names {
		a := s.of(name)
		to := a.state
		if to == 0 {
			to = a.transaction
		}
		ok(a.rpc.StorePSK(s.ctx(), &pb.StorePSKRequest{StateOrTransactionId: to, PskId: id, PskSecret: s.psks[string(id)]}))(s)
	}
	return id
}

// say lets a member send what all others read.
func (s *script) say(by string, others ...string) {
	s.t.Helper()
	a := s.of(by)
	text, aad := []byte("from "+by), newID()
	sent := ok(a.rpc.Protect(s.ctx(), &pb.ProtectRequest{StateId: a.state, Plaintext: text, AuthenticatedData: aad}))(s)
	for _, name := range others {
		s.hear(name, sent.Ciphertext, text, aad)
	}
}

func (s *script) hear(name string, ciphertext, text, aad []byte) {
	s.t.Helper()
	m := s.of(name)
	got := ok(m.rpc.Unprotect(s.ctx(), &pb.UnprotectRequest{StateId: m.state, Ciphertext: ciphertext}))(s)
	if !bytes.Equal(got.Plaintext, text) || !bytes.Equal(got.AuthenticatedData, aad) {
		s.t.Fatalf("%s read something else", name)
	}
}

// agree checks that members export one secret, and that each reads what each sends.
func (s *script) agree(names ...string) {
	s.t.Helper()
	var secret []byte
	for _, name := range names {
		a := s.of(name)
		rs := ok(a.rpc.Export(s.ctx(), &pb.ExportRequest{StateId: a.state, Label: "test", Context: []byte{1}, KeyLength: 40}))(s)
		if secret == nil {
			secret = rs.ExportedSecret
		}
		if len(secret) != 40 || !bytes.Equal(rs.ExportedSecret, secret) {
			s.t.Fatalf("%s exports another secret", name)
		}
		s.say(name, slices.DeleteFunc(slices.Clone(names), func(n string) bool { return n == name })...)
	}
}

// propose returns the message of a standalone proposal. kind is the type of a description; what is the value that it needs.
func (s *script) propose(by string, d *pb.ProposalDescription) []byte {
	s.t.Helper()
	a := s.of(by)
	var rs *pb.ProposalResponse
	var err error
	switch string(d.ProposalType) {
	case "add":
		rs, err = a.rpc.AddProposal(s.ctx(), &pb.AddProposalRequest{StateId: a.state, KeyPackage: d.KeyPackage})
	case "update":
		rs, err = a.rpc.UpdateProposal(s.ctx(), &pb.UpdateProposalRequest{StateId: a.state})
	case "remove":
		rs, err = a.rpc.RemoveProposal(s.ctx(), &pb.RemoveProposalRequest{StateId: a.state, RemovedId: d.RemovedId})
	case "externalPSK":
		rs, err = a.rpc.ExternalPSKProposal(s.ctx(), &pb.ExternalPSKProposalRequest{StateId: a.state, PskId: d.PskId})
	case "resumptionPSK":
		rs, err = a.rpc.ResumptionPSKProposal(s.ctx(), &pb.ResumptionPSKProposalRequest{StateId: a.state, EpochId: d.EpochId})
	case "groupContextExtensions":
		rs, err = a.rpc.GroupContextExtensionsProposal(s.ctx(), &pb.GroupContextExtensionsProposalRequest{StateId: a.state, Extensions: d.Extensions})
	case "reinit":
		rs, err = a.rpc.ReInitProposal(s.ctx(), &pb.ReInitProposalRequest{
			StateId: a.state, CipherSuite: d.CipherSuite, GroupId: d.GroupId, Extensions: d.Extensions,
		})
	default:
		s.t.Fatalf("no such proposal: %s", d.ProposalType)
	}
	return ok(rs, err)(s).Proposal
}

// addSigner makes an external sender and returns the proposal that lists it.
func (s *script) addSigner(by, name string) []byte {
	s.t.Helper()
	a, signer := s.of(by), s.of(name)
	made := ok(signer.rpc.CreateExternalSigner(s.ctx(), &pb.CreateExternalSignerRequest{CipherSuite: s.suite, Identity: []byte(name)}))(s)
	signer.signer = made.SignerId
	return ok(a.rpc.AddExternalSigner(s.ctx(), &pb.AddExternalSignerRequest{StateId: a.state, ExternalSender: made.ExternalSender}))(s).Proposal
}

// proposeOutside returns a proposal by an external sender, who learns of the group from a member.
func (s *script) proposeOutside(by, member string, d *pb.ProposalDescription) []byte {
	s.t.Helper()
	a, m := s.of(by), s.of(member)
	info := ok(m.rpc.GroupInfo(s.ctx(), &pb.GroupInfoRequest{StateId: m.state, ExternalTree: true}))(s)
	return ok(a.rpc.ExternalSignerProposal(s.ctx(), &pb.ExternalSignerProposalRequest{
		SignerId: a.signer, GroupInfo: info.GroupInfo, RatchetTree: info.RatchetTree, Description: d,
	}))(s).Proposal
}

// proposeOneself returns a proposal by a client that wants to be added.
func (s *script) proposeOneself(joiner, member string) []byte {
	s.t.Helper()
	j, m := s.of(joiner), s.of(member)
	info := ok(m.rpc.GroupInfo(s.ctx(), &pb.GroupInfoRequest{StateId: m.state}))(s)
	rs := ok(j.rpc.NewMemberAddProposal(s.ctx(), &pb.NewMemberAddProposalRequest{GroupInfo: info.GroupInfo, Identity: []byte(joiner)}))(s)
	j.transaction = rs.TransactionId
	return rs.Proposal
}

// reInit lets a member commit a ReInit, and another one found the successor, in whose suite everything goes on.
func (s *script) reInit(proposal []byte, suite uint32, committer, founder string, forcePath, treeOutside bool, members ...string) {
	s.t.Helper()
	c := s.of(committer)
	made := ok(c.rpc.ReInitCommit(s.ctx(), &pb.CommitRequest{StateId: c.state, ByReference: [][]byte{proposal}}))(s)
	own := ok(c.rpc.HandlePendingReInitCommit(s.ctx(), &pb.HandlePendingCommitRequest{StateId: c.state}))(s)
	c.ended, c.keyPackage = own.ReinitId, own.KeyPackage
	for _, name := range members {
		if name == committer {
			continue
		}
		m := s.of(name)
		rs := ok(m.rpc.HandleReInitCommit(s.ctx(), &pb.HandleCommitRequest{StateId: m.state, Proposal: [][]byte{proposal}, Commit: made.Commit}))(s)
		m.ended, m.keyPackage = rs.ReinitId, rs.KeyPackage
		s.same(name, rs.EpochAuthenticator, own.EpochAuthenticator)
	}
	if _, err := c.rpc.Protect(s.ctx(), &pb.ProtectRequest{StateId: c.state, Plaintext: []byte("too late")}); err == nil {
		s.t.Fatal("a group that has ended sends")
	}
	f := s.of(founder)
	rq := &pb.ReInitWelcomeRequest{ReinitId: f.ended, ForcePath: forcePath, ExternalTree: treeOutside}
	for _, name := range members {
		if name != founder {
			rq.KeyPackage = append(rq.KeyPackage, s.of(name).keyPackage)
		}
	}
	next := ok(f.rpc.ReInitWelcome(s.ctx(), rq))(s)
	f.state = next.StateId
	for _, name := range members {
		if name == founder {
			continue
		}
		m := s.of(name)
		rs := ok(m.rpc.HandleReInitWelcome(s.ctx(), &pb.HandleReInitWelcomeRequest{
			ReinitId: m.ended, Welcome: next.Welcome, RatchetTree: next.RatchetTree,
		}))(s)
		m.state = rs.StateId
		s.same(name, rs.EpochAuthenticator, next.EpochAuthenticator)
	}
	s.suite = suite
}

// branch makes a branch, and leaves its members in it.
func (s *script) branch(by string, exts []*pb.Extension, forcePath, treeOutside bool, members ...string) {
	s.t.Helper()
	a := s.of(by)
	rq := &pb.CreateBranchRequest{StateId: a.state, GroupId: newID(), Extensions: exts, ForcePath: forcePath, ExternalTree: treeOutside}
	for _, name := range members {
		rq.KeyPackages = append(rq.KeyPackages, s.publish(name))
	}
	made := ok(a.rpc.CreateBranch(s.ctx(), rq))(s)
	a.state = made.StateId
	for _, name := range members {
		m := s.of(name)
		rs := ok(m.rpc.HandleBranch(s.ctx(), &pb.HandleBranchRequest{
			StateId: m.state, TransactionId: m.transaction, Welcome: made.Welcome, RatchetTree: made.RatchetTree,
		}))(s)
		m.state = rs.StateId
		s.same(name, rs.EpochAuthenticator, made.EpochAuthenticator)
	}
}

// free forgets what the script's clients are in at last, once.
func (s *script) free() {
	s.t.Helper()
	for _, a := range s.actors {
		if a.state == 0 {
			continue
		}
		ok(a.rpc.Free(s.ctx(), &pb.FreeRequest{StateId: a.state}))(s)
		if _, err := a.rpc.StateAuth(s.ctx(), &pb.StateAuthRequest{StateId: a.state}); err == nil {
			s.t.Fatalf("%s is in a group that was freed", a.name)
		}
	}
}

// kind is a description of one type.
func kind(t string, change func(d *pb.ProposalDescription)) *pb.ProposalDescription {
	d := &pb.ProposalDescription{ProposalType: []byte(t)}
	if change != nil {
		change(d)
	}
	return d
}

func names(s string) []string { return strings.Fields(s) }
