package mls_test

import (
	"bytes"
	"errors"
	"fmt"
	"log"
	"time"

	"mimimi.example/pkg/mls"
)

const suite = mls.X25519_AES128GCM_SHA256_Ed25519

// device is a client of the examples: a KeyPackage that it has published, the secrets that it has kept, and the group it is in.
type device struct {
	keyPackage *mls.KeyPackage
	secrets    *mls.KeyPackageSecrets
	group      *mls.Group
}

// newDevice makes a client with a signature key of its own and one KeyPackage.
func newDevice(name string) *device {
	key := must(suite.GenerateSignatureKey())
	kp, secrets, err := mls.NewKeyPackage(mls.KeyPackageConfig{
		Suite:        suite,
		Credential:   mls.Credential{Type: mls.CredentialBasic, Body: []byte(name)},
		SignatureKey: key,
		Capabilities: mls.Capabilities{
			Versions:     []uint16{1},
			CipherSuites: []mls.CipherSuite{suite},
			Proposals:    []mls.ProposalType{mls.ProposalSelfRemove},
			Credentials:  []mls.CredentialType{mls.CredentialBasic},
		},
		Lifetime: mls.Lifetime{NotAfter: uint64(time.Now().Add(90 * 24 * time.Hour).Unix())},
	})
	check(err)
	return &device{keyPackage: kp, secrets: secrets}
}

func check(err error) {
	if err != nil {
		log.Fatal(err)
	}
}

func must[T any](v T, err error) T {
	check(err)
	return v
}

// create makes a group of one.
func (d *device) create(id string) {
	d.group = must(mls.NewGroup(mls.GroupConfig{GroupID: []byte(id), KeyPackage: d.keyPackage, Secrets: d.secrets}))
}

// newPair makes a group of two, as Example does.
func newPair() (alice, bob *device) {
	alice, bob = newDevice("alice"), newDevice("bob")
	alice.create("a group")
	staged := must(alice.group.Commit(mls.CommitOptions{
		Proposals: []mls.Proposal{{Type: mls.ProposalAdd, KeyPackage: bob.keyPackage}}, TreeInWelcome: true,
	}))
	check(alice.group.Merge(staged))
	var err error
	bob.group, _, err = mls.Join(mls.JoinConfig{Welcome: staged.Welcome, KeyPackage: bob.keyPackage, Secrets: bob.secrets})
	check(err)
	return alice, bob
}

// Two clients become a group and talk.
func Example() {
	alice, bob := newDevice("alice"), newDevice("bob")
	alice.create("a group")

	// Alice adds Bob. The commit is sent, and put in force once the server has ordered it before all others.
	staged := must(alice.group.Commit(mls.CommitOptions{
		Proposals:     []mls.Proposal{{Type: mls.ProposalAdd, KeyPackage: bob.keyPackage}},
		TreeInWelcome: true,
	}))
	check(alice.group.Merge(staged))

	// Bob joins by the Welcome, and need not see the commit.
	var err error
	bob.group, _, err = mls.Join(mls.JoinConfig{Welcome: staged.Welcome, KeyPackage: bob.keyPackage, Secrets: bob.secrets})
	check(err)
	fmt.Println("same epoch:", bytes.Equal(alice.group.EpochAuthenticator(), bob.group.EpochAuthenticator()))

	msg := must(bob.group.Encrypt([]byte("hello"), nil, nil))
	got := must(alice.group.Process(msg, mls.ProcessOptions{}))
	fmt.Printf("%s: %s\n", got.Application.Sender.Leaf.Credential().Body, got.Application.Data)
	// Output:
	// same epoch: true
	// bob: hello
}

// server orders the handshakes of a group, of which it knows what is public.
type server struct {
	group     *mls.PublicGroup
	groupInfo []byte // of the present epoch, for who joins from outside
}

// accept takes a commit with the GroupInfo of the epoch that it begins, or says why not. Nothing of it is in force before it is stored.
func (s *server) accept(commit, groupInfo []byte) error {
	change, err := s.group.StageCommit(commit, time.Now())
	if err != nil {
		return err
	}
	if _, err := change.After.CheckGroupInfo(groupInfo); err != nil {
		return err
	}
	// Here a real server stores change.After.Marshal() and the commit, in one write, and then delivers the commit.
	s.group, s.groupInfo = change.After, groupInfo
	return nil
}

// A server follows a group by its PublicMessages. It refuses what breaks a rule or comes too late, and hands the tree to those who join.
func ExamplePublicGroup() {
	alice, bob := newDevice("alice"), newDevice("bob")
	alice.create("a group")
	info := must(alice.group.GroupInfo(nil, true)) // with the tree, for the server to begin with
	s := &server{group: must(mls.NewPublicGroup(info, nil, nil)), groupInfo: info}

	// Bob joins by an external commit, with what the server has. The group exists for him once the server has taken it.
	joining := must(mls.JoinExternal(mls.ExternalJoinConfig{
		GroupInfo: s.groupInfo, Tree: s.group.Tree(), KeyPackage: bob.keyPackage, Secrets: bob.secrets,
	}))
	// Alice has made a commit in the meantime, which the server gets too late.
	late := must(alice.group.Commit(mls.CommitOptions{Path: true}))
	check(s.accept(joining.Message, joining.GroupInfo))
	fmt.Println("too late:", errors.Is(s.accept(late.Message, late.GroupInfo), mls.ErrStaleEpoch))

	// Bob is told that he was first; Alice gets his commit, and forgets hers.
	check((*mls.Group)(nil).Merge(joining))
	bob.group = joining.Group()
	got := must(alice.group.Process(joining.Message, mls.ProcessOptions{}))
	for _, m := range got.Commit.Change.After.Members() {
		fmt.Printf("%d: %s\n", m.Index, m.Leaf.Credential().Body)
	}
	check(alice.group.Merge(got.Commit))
	fmt.Println("epoch:", s.group.Epoch(), alice.group.Epoch(), bob.group.Epoch())
	// Output:
	// too late: true
	// 0: alice
	// 1: bob
	// epoch: 1 1 1
}

// A member leaves: it proposes that, and another member's commit removes it.
func ExampleGroup_Propose() {
	alice, bob := newPair()

	msg := must(bob.group.Propose(mls.Proposal{Type: mls.ProposalSelfRemove}, mls.ProposeOptions{}))
	got := must(alice.group.Process(msg, mls.ProcessOptions{}))
	fmt.Println("self_remove:", got.Proposal.Type == mls.ProposalSelfRemove)

	// A commit takes up what is pending.
	staged := must(alice.group.Commit(mls.CommitOptions{}))
	removal := must(bob.group.Process(staged.Message, mls.ProcessOptions{}))
	fmt.Println("bob is out:", removal.Commit.RemovesSelf())
	check(alice.group.Merge(staged))
	fmt.Println("members:", len(alice.group.Public().Members()))
	// Output:
	// self_remove: true
	// bob is out: true
	// members: 1
}

// A group is ended, and another with other parameters takes its place.
func ExampleGroup_Successor() {
	alice, bob := newPair()

	staged := must(alice.group.Commit(mls.CommitOptions{Proposals: []mls.Proposal{{
		Type: mls.ProposalReInit, ReInit: &mls.ReInit{GroupID: []byte("the next group"), Suite: suite},
	}}}))
	got := must(bob.group.Process(staged.Message, mls.ProcessOptions{}))
	check(alice.group.Merge(staged))
	check(bob.group.Merge(got.Commit))
	fmt.Printf("to be succeeded by %s\n", bob.group.Public().ReInit().GroupID)

	// Any member founds it, with a new KeyPackage of each member. Here it is Bob.
	nextAlice, nextBob := newDevice("alice"), newDevice("bob")
	staged = must(bob.group.Successor(mls.SuccessorConfig{
		KeyPackage: nextBob.keyPackage, Secrets: nextBob.secrets, Members: []*mls.KeyPackage{nextAlice.keyPackage}, TreeInWelcome: true,
	}))
	check((*mls.Group)(nil).Merge(staged))
	nextBob.group = staged.Group()

	// Alice says which groups she is in; Join tells her that the new one takes the place of one of them.
	mine := map[string]*mls.Group{"a group": alice.group}
	var info *mls.GroupInfo
	var err error
	nextAlice.group, info, err = mls.Join(mls.JoinConfig{
		Welcome: staged.Welcome, KeyPackage: nextAlice.keyPackage, Secrets: nextAlice.secrets,
		Groups: func(id []byte) *mls.Group { return mine[string(id)] },
	})
	check(err)
	if p := info.Predecessor; p != nil && p.Usage == mls.PSKReInit {
		delete(mine, string(p.GroupID))
		mine[string(info.GroupID)] = nextAlice.group
	}
	for id := range mine {
		fmt.Println("alice is in", id)
	}
	// Output:
	// to be succeeded by the next group
	// alice is in the next group
}
