package mls

import (
	"os"
	"path/filepath"
	"testing"
)

// TestOldStates goes on with states that version 1 of the encodings stored: alice with an Update of her own pending, and bob with a commit of his that
// takes it up and has been sent.
func TestOldStates(t *testing.T) {
	read := func(name string) []byte { return must(os.ReadFile(filepath.Join("testdata", "state1", name)))(t) }
	alice := must(ParseGroup(read("alice"), testRules()))(t)
	bob := must(ParseGroupParts(read("bob-public"), read("bob-private"), testRules()))(t)
	wantBytes(t, "whole and in parts", must(ParseGroup(read("bob"), testRules()))(t).Marshal(), bob.Marshal())
	wantBytes(t, "public state", bob.Public().Marshal(), read("bob-public"))
	staged := must(ParseStagedCommit(read("staged"), testRules()))(t)

	// The states are as good when they are stored anew.
	alice = must(ParseGroupParts(alice.Public().Marshal(), alice.MarshalPrivate(), testRules()))(t)
	staged = must(ParseStagedCommit(staged.Marshal(), testRules()))(t)
	got := must(alice.Process(staged.Message, ProcessOptions{}))(t)
	if err := alice.Merge(got.Commit); err != nil {
		t.Fatal(err)
	}
	if err := bob.Merge(staged); err != nil {
		t.Fatal(err)
	}
	wantBytes(t, "authenticator", alice.EpochAuthenticator(), bob.EpochAuthenticator())
	msg := must(alice.Encrypt([]byte("text"), nil, nil))(t)
	if got := must(bob.Process(msg, ProcessOptions{}))(t); string(got.Application.Data) != "text" {
		t.Error("message")
	}
}
