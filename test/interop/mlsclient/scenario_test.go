package main

import (
	"fmt"
	"testing"

	"mimimi.example/test/interop/mlsclient/pb"
)

// Descriptions of proposals, by what they need.
func addOf(kp []byte) *pb.ProposalDescription {
	return kind("add", func(d *pb.ProposalDescription) { d.KeyPackage = kp })
}

func removeOf(name string) *pb.ProposalDescription {
	return kind("remove", func(d *pb.ProposalDescription) { d.RemovedId = []byte(name) })
}

func pskOf(id []byte) *pb.ProposalDescription {
	return kind("externalPSK", func(d *pb.ProposalDescription) { d.PskId = id })
}

func epochOf(epoch uint64) *pb.ProposalDescription {
	return kind("resumptionPSK", func(d *pb.ProposalDescription) { d.EpochId = epoch })
}

func extensionsOf(exts ...*pb.Extension) *pb.ProposalDescription {
	return kind("groupContextExtensions", func(d *pb.ProposalDescription) { d.Extensions = exts })
}

// required and senders are empty required_capabilities and external_senders extensions.
var (
	required = &pb.Extension{ExtensionType: 3, ExtensionData: []byte{0, 0, 0}}
	senders  = &pb.Extension{ExtensionType: 5, ExtensionData: []byte{0}}
)

func (s *script) reInitOf(suite uint32, id []byte, exts ...*pb.Extension) *pb.ProposalDescription {
	return kind("reinit", func(d *pb.ProposalDescription) { d.CipherSuite, d.GroupId, d.Extensions = suite, id, exts })
}

// otherSuite is the suite that follows the script's one, which is itself if there is but one.
func (s *script) otherSuite() uint32 {
	for i, cs := range suites {
		if uint32(cs) == s.suite {
			return uint32(suites[(i+1)%len(suites)])
		}
	}
	return s.suite
}

// scenarios are what the public runner's files try, by the names of those.
var scenarios = map[string]func(s *script){
	"welcome_join": func(s *script) {
		s.create("alice", "bob")
		s.agree("alice", "bob")
		s.commit("bob", commitStep{byReference: [][]byte{s.propose("bob", addOf(s.publish("carol")))}, members: names("alice"), joiners: names("carol"), forcePath: true})
		s.agree("alice", "bob", "carol")
		s.commit("carol", commitStep{byValue: []*pb.ProposalDescription{addOf(s.publish("dave"))}, members: names("alice bob"), joiners: names("dave"), treeOutside: true})
		s.agree("alice", "bob", "carol", "dave")
	},
	"welcome_join/psk": func(s *script) {
		s.create("alice", "bob")
		kp := s.publish("carol")
		id := s.psk("alice", "bob", "carol")
		s.commit("alice", commitStep{byValue: []*pb.ProposalDescription{pskOf(id), addOf(kp)}, members: names("bob"), joiners: names("carol")})
		s.agree("alice", "bob", "carol")
	},
	"application": func(s *script) {
		s.create("alice", "bob", "carol")
		a := s.of("alice")
		var sent [][]byte
		for i := range 5 {
			sent = append(sent, ok(a.rpc.Protect(s.ctx(), &pb.ProtectRequest{StateId: a.state, Plaintext: []byte{byte(i)}}))(s).Ciphertext)
		}
		for _, i := range []int{4, 0, 2} { // out of order
			s.hear("bob", sent[i], []byte{byte(i)}, nil)
		}
		s.commit("carol", commitStep{members: names("alice bob")})
		s.hear("bob", sent[3], []byte{3}, nil) // late
		s.hear("carol", sent[3], []byte{3}, nil)
		s.agree("alice", "bob", "carol")
	},
	"commit/empty": func(s *script) {
		s.create("alice", "bob")
		s.commit("alice", commitStep{members: names("bob")})
		s.commit("bob", commitStep{members: names("alice"), forcePath: true})
		s.agree("alice", "bob")
	},
	"commit/race": func(s *script) {
		s.create("alice", "bob", "carol")
		b := s.of("bob")
		ok(b.rpc.Commit(s.ctx(), &pb.CommitRequest{StateId: b.state}))(s)
		s.commit("alice", commitStep{members: names("bob carol")})
		if _, err := b.rpc.HandlePendingCommit(s.ctx(), &pb.HandlePendingCommitRequest{StateId: b.state}); err == nil {
			s.t.Fatal("a commit that came too late is in force")
		}
		s.commit("bob", commitStep{members: names("alice carol")})
		s.agree("alice", "bob", "carol")
	},
	"commit/add": func(s *script) {
		s.create("alice", "bob")
		for i, path := range []bool{true, false} {
			one, two, three := fmt.Sprint("x", i), fmt.Sprint("y", i), fmt.Sprint("z", i)
			step := commitStep{forcePath: path, joiners: []string{one, two, three}}
			step.byReference = [][]byte{s.propose("alice", addOf(s.publish(one))), s.propose("bob", addOf(s.publish(two)))}
			step.byValue = []*pb.ProposalDescription{addOf(s.publish(three))}
			if step.members = names("bob"); i == 1 {
				step.members = names("bob x0 y0 z0")
			}
			s.commit("alice", step)
		}
		s.agree(names("alice bob x0 y0 z0 x1 y1 z1")...)
	},
	"commit/remove": func(s *script) {
		s.create("alice", names("bob carol dave erin")...)
		s.commit("alice", commitStep{
			byReference: [][]byte{s.propose("alice", removeOf("carol")), s.propose("bob", removeOf("dave"))},
			byValue:     []*pb.ProposalDescription{removeOf("erin")},
			members:     names("bob"),
		})
		s.agree("alice", "bob")
	},
	"commit/update": func(s *script) {
		s.create("alice", "bob", "carol")
		s.commit("alice", commitStep{byReference: [][]byte{s.propose("bob", kind("update", nil)), s.propose("carol", kind("update", nil))}, members: names("bob carol")})
		s.agree("alice", "bob", "carol")
	},
	"commit/group_context_extensions": func(s *script) {
		s.create("alice", "bob")
		s.commit("alice", commitStep{byReference: [][]byte{s.propose("alice", extensionsOf(required, senders))}, members: names("bob")})
		s.commit("alice", commitStep{byReference: [][]byte{s.propose("bob", extensionsOf())}, members: names("bob")})
		s.commit("bob", commitStep{byValue: []*pb.ProposalDescription{extensionsOf(required)}, members: names("alice")})
		s.agree("alice", "bob")
	},
	"commit/psk": func(s *script) {
		s.create("alice", "bob")
		one, two, three := s.psk("alice", "bob"), s.psk("alice", "bob"), s.psk("alice", "bob")
		for _, path := range []bool{true, false} {
			s.commit("alice", commitStep{
				byReference: [][]byte{s.propose("alice", pskOf(one)), s.propose("bob", pskOf(two))},
				byValue:     []*pb.ProposalDescription{pskOf(three)}, members: names("bob"), forcePath: path,
			})
		}
		for range 2 {
			s.commit("alice", commitStep{
				byReference: [][]byte{s.propose("alice", epochOf(1)), s.propose("bob", epochOf(2))},
				byValue:     []*pb.ProposalDescription{epochOf(3)}, members: names("bob"),
			})
		}
		s.agree("alice", "bob")
	},
	"commit/all_together": func(s *script) {
		s.create("alice", "bob", "carol", "dave")
		one, two := s.psk("alice", "bob"), s.psk("alice", "bob")
		s.commit("alice", commitStep{
			byReference: [][]byte{
				s.propose("bob", addOf(s.publish("erin"))), s.propose("bob", removeOf("carol")), s.propose("bob", extensionsOf(required, senders)),
				s.propose("bob", pskOf(one)), s.propose("bob", epochOf(1)), s.propose("bob", kind("update", nil)),
			},
			byValue: []*pb.ProposalDescription{addOf(s.publish("frank")), removeOf("dave"), pskOf(two)},
			members: names("bob"),
			joiners: nil, // who lack the PSKs: the Welcome is for others
		})
		s.agree("alice", "bob")
	},
	"external_join": func(s *script) {
		s.create("alice")
		s.joinExternal("alice", "bob", nil, false)
		s.agree("alice", "bob")
		s.joinExternal("alice", "carol", nil, true, "bob")
		s.joinExternal("alice", "carol", func(rq *pb.ExternalJoinRequest) { rq.RemovePrior = true }, false, "bob")
		id := s.psk("alice", "bob", "carol")
		s.joinExternal("carol", "dave", func(rq *pb.ExternalJoinRequest) {
			rq.Psks = []*pb.PreSharedKey{{PskId: id, PskSecret: s.psks[string(id)]}}
		}, false, "alice", "bob")
		s.commit("dave", commitStep{members: names("alice bob carol")})
		s.agree("alice", "bob", "carol", "dave")
	},
	"external_proposals": func(s *script) {
		s.create("alice", "bob", "carol")
		s.commit("alice", commitStep{byReference: [][]byte{s.addSigner("alice", "hub")}, members: names("bob carol")})
		s.commit("alice", commitStep{byReference: [][]byte{s.addSigner("bob", "other")}, members: names("bob carol")})
		s.commit("bob", commitStep{byReference: [][]byte{s.proposeOneself("dave", "alice")}, members: names("alice carol"), joiners: names("dave")})
		s.commit("alice", commitStep{
			byReference: [][]byte{s.proposeOutside("hub", "alice", addOf(s.publish("erin")))}, members: names("bob carol dave"), joiners: names("erin"),
		})
		s.commit("alice", commitStep{byReference: [][]byte{s.proposeOutside("other", "bob", removeOf("carol"))}, members: names("bob dave erin")})
		all := names("bob dave erin")
		one, two := s.psk("alice", "bob", "dave", "erin"), s.psk("alice", "bob", "dave", "erin")
		s.commit("alice", commitStep{byReference: [][]byte{s.proposeOutside("hub", "alice", pskOf(one)), s.proposeOutside("other", "alice", pskOf(two))}, members: all})
		s.commit("alice", commitStep{members: all})
		s.commit("alice", commitStep{byReference: [][]byte{s.proposeOutside("hub", "alice", epochOf(6))}, members: all})
		s.commit("alice", commitStep{byReference: [][]byte{s.proposeOutside("hub", "alice", extensionsOf(required))}, members: all})
		s.agree("alice", "bob", "dave", "erin")
	},
	"external_proposals/reinit": func(s *script) {
		s.create("alice", "bob", "carol")
		s.commit("alice", commitStep{byReference: [][]byte{s.addSigner("alice", "hub")}, members: names("bob carol")})
		p := s.proposeOutside("hub", "alice", s.reInitOf(s.otherSuite(), newID(), required))
		s.reInit(p, s.otherSuite(), "alice", "bob", true, false, "alice", "bob", "carol")
		s.agree("alice", "bob", "carol")
	},
	"reinit": func(s *script) {
		everyone := names("alice bob carol dave")
		s.create("alice", everyone[1:]...)
		// Each successor has a successor: with another suite, another id, other extensions, all by one member, with the tree outside, with a path.
		suite := s.otherSuite()
		s.reInit(s.propose("alice", s.reInitOf(suite, s.group)), suite, "bob", "carol", false, false, everyone...)
		s.agree(everyone...)
		s.reInit(s.propose("alice", s.reInitOf(s.suite, newID())), s.suite, "bob", "carol", false, false, everyone...)
		s.reInit(s.propose("alice", s.reInitOf(s.suite, newID(), required, senders)), s.suite, "bob", "carol", false, false, everyone...)
		s.reInit(s.propose("dave", s.reInitOf(s.suite, newID())), s.suite, "dave", "dave", false, false, everyone...)
		s.reInit(s.propose("alice", s.reInitOf(s.suite, newID())), s.suite, "bob", "carol", false, true, everyone...)
		s.reInit(s.propose("alice", s.reInitOf(s.suite, newID())), s.suite, "bob", "carol", true, false, everyone...)
		s.agree(everyone...)
		s.commit("dave", commitStep{members: names("alice bob carol")})
		s.agree(everyone...)
	},
	"branch": func(s *script) {
		s.create("alice", names("bob carol dave erin")...)
		s.branch("alice", nil, false, false, names("bob carol dave erin")...)
		s.agree(names("alice bob carol dave erin")...)
		s.branch("alice", []*pb.Extension{required, senders}, false, false, names("bob carol dave")...)
		s.branch("bob", nil, false, true, names("alice carol")...)
		s.branch("carol", nil, true, false, names("bob")...)
		s.agree("bob", "carol")
		s.commit("bob", commitStep{members: names("carol")})
		s.agree("bob", "carol")
	},
}

// TestScenarios runs every scenario with every suite, with clients on three servers: with the first suite in both wire formats, with the others in turns.
func TestScenarios(t *testing.T) {
	var clients []pb.MLSClientClient
	for range 3 {
		clients = append(clients, pb.NewMLSClientClient(dial(t)))
	}
	for name, run := range scenarios {
		for i, suite := range suites {
			for _, private := range []bool{false, true} {
				if i > 0 && private != (i%2 == 0) {
					continue // the formats do not depend on the suite
				}
				t.Run(fmt.Sprintf("%s/suite %d/private=%t", name, suite, private), func(t *testing.T) {
					s := &script{t: t, suite: uint32(suite), private: private, clients: clients, actors: map[string]*actor{}, psks: map[string][]byte{}}
					run(s)
					s.free()
				})
			}
		}
	}
	// Of the RPCs none is left untried.
	for _, c := range clients {
		s := &script{t: t}
		if ok(c.Name(t.Context(), &pb.NameRequest{}))(s).Name != "test" {
			t.Error("name")
		}
		got := ok(c.SupportedCiphersuites(t.Context(), &pb.SupportedCiphersuitesRequest{}))(s).Ciphersuites
		if len(got) != len(suites) || len(got) == 0 || got[0] != 1 {
			t.Errorf("suites: %v", got)
		}
	}
	called.Lock()
	defer called.Unlock()
	if n := len(pb.MLSClient_ServiceDesc.Methods); n != 34 {
		t.Errorf("the service has %d RPCs", n)
	}
	for _, m := range pb.MLSClient_ServiceDesc.Methods {
		if !called.names[m.MethodName] {
			t.Errorf("%s was not called", m.MethodName)
		}
	}
}
