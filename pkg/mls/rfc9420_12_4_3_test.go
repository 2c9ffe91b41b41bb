package mls

import (
	"bytes"
	"slices"
	"testing"
)

// joins tries every way into a group that a GroupInfo gives, and wants the same of each: Welcome, external commit, and a server that begins to follow.
// spoil gets the group's context, the GroupInfo's extensions and the tree before they are signed.
func (w *world) joins(t *testing.T, signer, to *client, want breach, spoil func(context *groupContext, exts *[]Extension, tree *looseTree)) {
	t.Helper()
	judge := func(how string, err error) {
		t.Helper()
		if want == (breach{}) {
			if err != nil {
				t.Errorf("%s: %v", how, err)
			}
			return
		}
		want.check(t, how, err)
	}
	_, _, err := Join(w.forgedWelcome(t, signer, to, func(d *welcomed) { spoil(&d.info.context, &d.info.extensions, &d.tree) }))
	judge("Welcome", err)
	tree := loosen(w.server.tree)
	info := must(parseGroupInfo(w.info))(t)
	before := tree.hash()
	spoil(&info.context, &info.extensions, &tree)
	if after := tree.hash(); !bytes.Equal(before, after) {
		info.context.treeHash = after
	}
	info.signer = signer.group.OwnIndex()
	info.sign(signer.group.s.signer)
	_, err = JoinExternal(ExternalJoinConfig{GroupInfo: marshal(info), Tree: tree.bytes(), KeyPackage: to.kp, Secrets: to.secrets, Rules: w.rules})
	judge("external commit", err)
	_, err = NewPublicGroup(marshal(info), tree.bytes(), w.rules)
	judge("server", err)
}

func TestRFC9420_12_4_3(t *testing.T) {
	w, alice, bob, _ := threeWorld(t)
	dave := newClient(t, "dave")
	t.Run("an unknown extension of a GroupInfo is ignored", func(t *testing.T) {
		w.joins(t, alice, dave, breach{}, func(_ *groupContext, exts *[]Extension, _ *looseTree) {
			*exts = append(*exts, Extension{Type: 0x1234, Data: []byte("unknown")}, Extension{Type: 0x3a3a, Data: []byte("GREASE")})
		})
	})
	t.Run("a joiner supports the extensions of the group", func(t *testing.T) {
		narrow := packageOf(t, "dave", func(kp *KeyPackage) { kp.leaf.capabilities.Extensions = []ExtensionType{testLeafExtension} })
		want := rule("13.4", "supports the extensions")
		_, err := JoinExternal(ExternalJoinConfig{GroupInfo: w.info, Tree: w.server.Tree(), KeyPackage: narrow.kp, Secrets: narrow.secrets, Rules: w.rules})
		want.check(t, "external commit", err)
		// Nobody in this group supports the extension of the GroupInfo, the joiner among them.
		w.joins(t, alice, dave, want, func(c *groupContext, _ *[]Extension, _ *looseTree) { c.extensions = []Extension{{Type: 0x1234}} })
	})
	t.Run("a GroupInfo is signed by its signer's leaf", func(t *testing.T) {
		spoiled := map[string]struct {
			change func(d *welcomed)
			want   breach
		}{
			"another's signature": {func(d *welcomed) { d.signer = bob.group.s.signer }, failure(ErrUnauthenticated)},
			"another signer":      {func(d *welcomed) { d.beforeSign = func(g *groupInfo) { g.signer = bob.group.OwnIndex() } }, failure(ErrUnauthenticated)},
			"blank signer":        {func(d *welcomed) { d.beforeSign = func(g *groupInfo) { g.signer = 5 } }, rule("12.4.3.1", "signer's leaf is occupied")},
			"signer far outside":  {func(d *welcomed) { d.beforeSign = func(g *groupInfo) { g.signer = 1 << 31 } }, rule("12.4.3.1", "signer's leaf is occupied")},
			"extension added": {func(d *welcomed) {
				d.afterSign = func(g *groupInfo) { g.extensions = append(g.extensions, Extension{Type: 0x1234}) }
			}, failure(ErrUnauthenticated)},
		}
		for name, c := range spoiled {
			_, _, err := Join(w.forgedWelcome(t, alice, dave, c.change))
			c.want.check(t, name, err)
		}
		for name, change := range map[string]func(g *groupInfo){
			"tag": func(g *groupInfo) { g.confirmationTag = flipped(g.confirmationTag, 0) }, "signer": func(g *groupInfo) { g.signer ^= 1 },
			"epoch": func(g *groupInfo) { g.context.epoch++ }, "extensions": func(g *groupInfo) { g.extensions = g.extensions[:1] },
		} {
			info := must(parseGroupInfo(w.info))(t)
			change(info)
			_, err := NewPublicGroup(marshal(info), w.server.Tree(), w.rules)
			failure(ErrUnauthenticated).check(t, name, err)
			_, err = JoinExternal(ExternalJoinConfig{GroupInfo: marshal(info), Tree: w.server.Tree(), KeyPackage: dave.kp, Secrets: dave.secrets, Rules: w.rules})
			failure(ErrUnauthenticated).check(t, name, err)
		}
	})
	t.Run("a server knows a GroupInfo that is not of its state", func(t *testing.T) {
		for name, c := range map[string]struct {
			change func(g *groupInfo)
			want   breach
		}{
			"epoch": {func(g *groupInfo) { g.context.epoch++ }, failure(ErrStaleEpoch)}, "group": {func(g *groupInfo) { g.context.groupID = []byte("x") }, rule("6", "own group")},
			"tree": {func(g *groupInfo) { g.context.treeHash = randomBytes(32) }, rule("12.4.3", "GroupContext of its epoch")},
			"tag":  {func(g *groupInfo) { g.confirmationTag = randomBytes(32) }, rule("12.4.3", "confirmation tag of its epoch")},
			"none": {func(g *groupInfo) { g.signer = 3 }, rule("12.4.3", "signer's leaf is occupied")},
			"sign": {func(g *groupInfo) { g.signer = 2 }, failure(ErrUnauthenticated)},
		} {
			info := must(parseGroupInfo(w.info))(t)
			info.signer = alice.group.OwnIndex()
			c.change(info)
			info.sign(alice.group.s.signer)
			_, err := w.server.CheckGroupInfo(marshal(info))
			c.want.check(t, name, err)
		}
	})
}

// TestRFC9420_12_4_3_1 has the rules of the section, one a subtest, in one group that each of them tries to spoil.
func TestRFC9420_12_4_3_1(t *testing.T) {
	w, alice, bob, carol := threeWorld(t)
	w.run("carol: updates\nalice: updates")
	dave := newClient(t, "dave")
	join := func(change func(d *welcomed)) error {
		_, _, err := Join(w.forgedWelcome(t, alice, dave, change))
		return err
	}
	asItIs := func(*welcomed) {}
	if err := join(asItIs); err != nil {
		t.Fatal(err)
	}
	t.Run("the tree is at hand", func(t *testing.T) {
		cfg := w.forgedWelcome(t, alice, dave, asItIs)
		cfg.Tree = nil
		_, _, err := Join(cfg)
		rule("12.4.3.3", "at hand").check(t, "Welcome", err)
	})
	t.Run("the Welcome has an entry for the KeyPackage", func(t *testing.T) {
		cfg := w.forgedWelcome(t, alice, dave, func(d *welcomed) { d.to = bob.kp })
		_, _, err := Join(cfg)
		rule("12.4.3.1", "entry for each newcomer").check(t, "Welcome", err)
	})
	t.Run("Welcome and KeyPackage have one cipher suite", func(t *testing.T) {
		cfg := w.forgedWelcome(t, alice, dave, asItIs)
		cfg.Welcome[5] = 3
		_, _, err := Join(cfg)
		failure(ErrUnsupported).check(t, "Welcome", err)
	})
	t.Run("the secrets open with the init key", func(t *testing.T) {
		cfg := w.forgedWelcome(t, alice, dave, asItIs)
		wel, _, err := parseWelcome(cfg.Welcome)
		if err != nil {
			t.Fatal(err)
		}
		wel.secrets[0].secrets.ciphertext[0] ^= 1
		cfg.Welcome = marshal(wel)
		_, _, err = Join(cfg)
		failure(ErrUnauthenticated).check(t, "Welcome", err)
	})
	t.Run("the PSKs of a Welcome are at hand", func(t *testing.T) {
		err := join(func(d *welcomed) { d.secrets.psks = []*PSKID{{ID: []byte("nobody knows it"), Nonce: make([]byte, 32)}} })
		failure(errTestRule).check(t, "Welcome", err)
	})
	t.Run("the GroupInfo opens", func(t *testing.T) {
		failure(ErrUnauthenticated).check(t, "another joiner secret", join(func(d *welcomed) { d.psk = randomBytes(32) }))
	})
	t.Run("GroupInfo and KeyPackage have one cipher suite", func(t *testing.T) {
		err := join(func(d *welcomed) { d.info.context.suite = 3 })
		rule("12.4.3.1", "one cipher suite").check(t, "Welcome", err)
	})
	t.Run("the tree has the tree hash of the GroupInfo", func(t *testing.T) {
		want := rule("12.4.3.1", "tree hash of the GroupContext")
		w.joins(t, alice, dave, want, func(c *groupContext, _ *[]Extension, _ *looseTree) { c.treeHash = randomBytes(32) })
		cfg := w.forgedWelcome(t, alice, dave, asItIs)
		cfg.Tree = w.server.Tree() // of the epoch before
		_, _, err := Join(cfg)
		want.check(t, "old tree", err)
	})
	t.Run("every parent is parent-hash valid", func(t *testing.T) {
		w.joins(t, alice, dave, rule("7.9.2", "parent-hash valid"), func(_ *groupContext, _ *[]Extension, tree *looseTree) {
			tree.change(1, func(p *parentNode) { p.encryptionKey = must(suite1.GenerateHPKEKey())(t).Public() })
		})
	})
	t.Run("every leaf is valid", func(t *testing.T) {
		for name, c := range map[string]struct {
			change func(l *LeafNode)
			want   breach
		}{
			"signature":    {func(l *LeafNode) { l.signature = flipped(l.signature, 0) }, failure(ErrUnauthenticated)},
			"capabilities": {func(l *LeafNode) { l.capabilities.Versions = nil }, rule("7.2", "version")},
			"extension":    {func(l *LeafNode) { l.extensions = append(l.extensions, Extension{Type: 0x1234}) }, rule("7.3", "leaf's extensions")},
			"credential":   {func(l *LeafNode) { l.credential.Type = CredentialBasic }, rule("7.3", "credential types in use")},
			"key":          {func(l *LeafNode) { l.encryptionKey = make([]byte, 32) }, rule("7.3", "key of the suite")},
			"key of bob":   {func(l *LeafNode) { l.encryptionKey = bob.group.OwnLeaf().encryptionKey }, rule("7.3", "encryption keys are unique")},
			"signature of": {func(l *LeafNode) { l.signatureKey = bob.group.OwnLeaf().signatureKey }, rule("7.3", "signature keys are unique")},
		} {
			// carol's leaf comes from an Update, so no parent hash hangs on it.
			w.joins(t, alice, dave, c.want, func(_ *groupContext, _ *[]Extension, tree *looseTree) {
				i := carol.group.s.private.index
				l := leafOf(t, carol, func(*LeafNode) {}).Leaf
				if name == "signature" {
					c.change(l)
				} else {
					c.change(l)
					l.sign(carol.group.s.signer, w.server.GroupID(), i)
				}
				tree.update(i, l)
			})
		}
	})
	t.Run("an unmerged leaf is an occupied leaf below its node", func(t *testing.T) {
		for name, c := range map[string]struct {
			leaf leafIndex
			want breach
		}{
			"blank": {5, rule("12.4.3.1", "occupied leaf below")}, "beside": {2, failure(ErrMalformed)}, "outside": {1 << 31, failure(ErrMalformed)},
		} {
			n := 1 // above alice and bob
			if c.want.section != "" {
				n = 7 // the root of eight leaves
			}
			t.Log(name)
			w.joins(t, alice, dave, c.want, func(_ *groupContext, _ *[]Extension, tree *looseTree) {
				if n == 7 { // make room: a leaf at 4, under a root of its own
					*tree = append(*tree, make(looseTree, 8)...)
					(*tree)[8].leaf = newClient(t, "erin").kp.Leaf()
					(*tree)[7].parent = &parentNode{encryptionKey: must(suite1.GenerateHPKEKey())(t).Public(), unmergedLeaves: []leafIndex{c.leaf}}
					return
				}
				tree.change(n, func(p *parentNode) { p.unmergedLeaves = []leafIndex{c.leaf} })
			})
		}
	})
	t.Run("an unmerged leaf is unmerged at every occupied node between", func(t *testing.T) {
		w.joins(t, alice, dave, rule("12.4.3.1", "unmerged at every occupied node"), func(_ *groupContext, _ *[]Extension, tree *looseTree) {
			tree.change(tree.root(), func(p *parentNode) { p.unmergedLeaves = slices.Insert(p.unmergedLeaves, 0, 1) })
		})
	})
	t.Run("a parent's key is nowhere else in the tree", func(t *testing.T) {
		for _, key := range [][]byte{carol.group.OwnLeaf().encryptionKey, rootKey(w)} {
			w.joins(t, alice, dave, rule("7.3", "encryption keys are unique"), func(_ *groupContext, _ *[]Extension, tree *looseTree) {
				tree.change(1, func(p *parentNode) { p.encryptionKey = key })
			})
		}
	})
	t.Run("a parent's key is a key of the suite", func(t *testing.T) {
		w.joins(t, alice, dave, rule("7.1", "key of the suite"), func(_ *groupContext, _ *[]Extension, tree *looseTree) {
			tree.change(1, func(p *parentNode) { p.encryptionKey = make([]byte, 32) })
		})
	})
	t.Run("the tree is truncated", func(t *testing.T) {
		w.joins(t, alice, dave, failure(ErrMalformed), func(_ *groupContext, _ *[]Extension, tree *looseTree) {
			*tree = append(*tree, make(looseTree, len(*tree)+1)...)
			(*tree)[len(*tree)-2].parent = &parentNode{encryptionKey: must(suite1.GenerateHPKEKey())(t).Public()}
		})
	})
	t.Run("the own leaf is in the tree", func(t *testing.T) {
		again := &client{name: "dave", kp: dave.kp, secrets: dave.secrets}
		again.renew(t)
		cfg := w.forgedWelcome(t, alice, dave, asItIs)
		wel, _, err := parseWelcome(cfg.Welcome)
		if err != nil {
			t.Fatal(err)
		}
		plain := marshal(must(wel.open(dave.kp, dave.secrets.InitKey))(t))
		kem, ct, err := suite1.EncryptWithLabel(again.kp.InitKey(), labelWelcomeHPKE, wel.encryptedGroupInfo, plain)
		if err != nil {
			t.Fatal(err)
		}
		wel.secrets[0] = encryptedGroupSecrets{newMember: again.kp.Ref(), secrets: hpkeCiphertext{kemOutput: kem, ciphertext: ct}}
		cfg.Welcome, cfg.KeyPackage, cfg.Secrets = marshal(wel), again.kp, again.secrets
		_, _, err = Join(cfg)
		rule("12.4.3.1", "newcomer's leaf is in the tree").check(t, "Welcome", err)
	})
	t.Run("the path secret gives the keys of the tree", func(t *testing.T) {
		rule("7.5", "keys of the path").check(t, "other", join(func(d *welcomed) { d.secrets.pathSecret = randomBytes(32) }))
		rule("7.4", "length of a hash").check(t, "short", join(func(d *welcomed) { d.secrets.pathSecret = randomBytes(31) }))
		err := join(func(d *welcomed) {
			d.secrets.pathSecret = randomBytes(32)
			for _, n := range []int{1, d.tree.root(), 5} {
				d.tree[n] = looseNode{}
			}
		})
		rule("7.5", "keys of the path").check(t, "blank path", err)
	})
	t.Run("the confirmation tag is that of the epoch", func(t *testing.T) {
		err := join(func(d *welcomed) {
			d.beforeSign = func(g *groupInfo) { g.confirmationTag = flipped(g.confirmationTag, 0) }
		})
		failure(ErrUnauthenticated).check(t, "Welcome", err)
	})
	t.Run("a newcomer goes on from the transcript of the GroupInfo", func(t *testing.T) {
		w.clients["erin"] = newClient(t, "erin")
		w.run("alice: adds erin\nerin: updates\nbob: updates\nerin: says hello")
	})
}

func TestRFC9420_12_4_3_2(t *testing.T) {
	w, alice, bob, _ := threeWorld(t)
	w.commit(alice, CommitOptions{})
	dave := newClient(t, "dave")
	staged := w.external(dave, nil)
	w.bothTake(t, bob, w.forgedJoin(t, dave, staged, func(*authenticatedContent) {}))
	t.Run("there is a path", func(t *testing.T) {
		msg := w.forgedJoin(t, dave, staged, func(ac *authenticatedContent) { ac.content.commit.path = nil })
		w.bothRefuse(t, bob, msg, rule("6.1", "can send this content"))
	})
	t.Run("the joiner gets the leftmost free leaf", func(t *testing.T) {
		if got := staged.Change.Committer.Index; got != 3 {
			t.Errorf("leaf %d", got)
		}
		w, alice, _, _ := threeWorld(t)
		w.commit(alice, CommitOptions{Proposals: w.removes([]string{"bob"})})
		if got := w.external(newClient(t, "dave"), nil).Change.Committer.Index; got != 1 {
			t.Errorf("leaf %d", got)
		}
	})
	t.Run("there is no proposal by reference", func(t *testing.T) {
		w, _, bob, carol := threeWorld(t)
		custom := w.sent(t, carol, Proposal{Type: testProposal, Body: []byte("x")})
		w.info = must(carol.group.GroupInfo(nil, false))(t)
		init := CommittedProposal{Proposal: Proposal{Type: ProposalExternalInit}, Sender: Sender{Type: SenderNewMemberCommit}}
		w.bothRefuse(t, bob, w.lawlessJoin(t, newClient(t, "dave"), init, custom), rule("12.4.3.2", "refers to no proposal"))
	})
	t.Run("the joiner signs, with the key of its leaf", func(t *testing.T) {
		ac := must(parseMLSMessage(staged.Message))(t).publicMessage.authenticated()
		ac.sign(bob.group.s.signer, w.server.encoded)
		msg := (&mlsMessage{publicMessage: newPublicMessage(suite1, ac, nil, nil)}).marshal()
		w.bothRefuse(t, bob, msg, failure(ErrUnauthenticated))
		ac.sign(dave.secrets.SignatureKey, w.server.encoded[1:])
		msg = (&mlsMessage{publicMessage: newPublicMessage(suite1, ac, nil, nil)}).marshal()
		w.bothRefuse(t, bob, msg, failure(ErrUnauthenticated))
	})
	t.Run("the init secret is the one that is sent", func(t *testing.T) {
		msg := w.forgedJoin(t, dave, staged, func(ac *authenticatedContent) {
			kem, _, err := externalInit(must(parseGroupInfo(w.info))(t))
			if err != nil {
				t.Fatal(err)
			}
			ac.content.commit.proposals[0].proposal.kemOutput = kem
		})
		failure(ErrUnauthenticated).check(t, "bob", bob.refused(t, msg))
		msg = w.forgedJoin(t, dave, staged, func(ac *authenticatedContent) { ac.content.commit.proposals[0].proposal.kemOutput = nil })
		failure(ErrUnauthenticated).check(t, "bob", bob.refused(t, msg))
	})
	t.Run("the sender is a new member", func(t *testing.T) {
		for name, sender := range map[string]Sender{"external": {Type: SenderExternal}, "proposing": {Type: SenderNewMemberProposal}} {
			t.Log(name)
			msg := w.forgedJoin(t, dave, staged, func(ac *authenticatedContent) { ac.content.sender = sender })
			w.bothRefuse(t, bob, msg, rule("12.4", "from a member or a new member"))
		}
		msg := forge(t, alice, staged.Message, func(ac *authenticatedContent) { ac.content.sender = alice.group.s.self() })
		w.bothRefuse(t, bob, msg, rule("12.2", "only an external commit"))
	})
	t.Run("the GroupInfo has the external key", func(t *testing.T) {
		info := must(parseGroupInfo(w.info))(t)
		info.extensions = nil
		info.sign(alice.group.s.signer)
		_, err := JoinExternal(ExternalJoinConfig{GroupInfo: marshal(info), Tree: w.server.Tree(), KeyPackage: dave.kp, Secrets: dave.secrets, Rules: w.rules})
		rule("12.4.3.2", "external_pub").check(t, "joiner", err)
	})
}

func TestRFC9420_12_4_3_3(t *testing.T) {
	w, _, bob, _ := threeWorld(t)
	tree := w.server.tree
	nodes := func(ns ...looseNode) []byte { return looseTree(ns).allBytes() }
	leaf, parent, blank := looseNode{leaf: tree.leaf(0)}, looseNode{parent: &parentNode{encryptionKey: []byte("k")}}, looseNode{}
	read := func(b []byte) error { _, err := parseRatchetTree(suite1, b); return err }
	t.Run("a sender leaves out blank nodes at the end", func(t *testing.T) {
		all := loosen(tree)
		if !all[len(all)-1].blank() {
			t.Fatal("no blank node at the end")
		}
		wantBytes(t, "tree", tree.bytes(), all.bytes())
	})
	t.Run("the last node is not blank", func(t *testing.T) {
		failure(ErrMalformed).check(t, "one blank", read(nodes(blank)))
		failure(ErrMalformed).check(t, "a blank leaf", read(nodes(leaf, blank, blank)))
		failure(ErrMalformed).check(t, "no node", read(nodes()))
	})
	t.Run("the number of nodes is odd", func(t *testing.T) {
		failure(ErrMalformed).check(t, "two", read(nodes(leaf, blank)))
		failure(ErrMalformed).check(t, "two, the last a parent", read(nodes(leaf, parent)))
		failure(nil).check(t, "three", read(nodes(leaf, blank, leaf)))
	})
	t.Run("leaves and parents have their places", func(t *testing.T) {
		failure(ErrMalformed).check(t, "a leaf between", read(nodes(leaf, leaf, leaf)))
		failure(ErrMalformed).check(t, "a parent first", read(nodes(parent, parent, leaf)))
	})
	t.Run("the tree has the tree hash of the GroupContext", func(t *testing.T) {
		other := loosen(tree)
		other.update(1, leafOf(t, bob, func(*LeafNode) {}).Leaf)
		_, err := NewPublicGroup(w.info, other.bytes(), w.rules)
		rule("12.4.3.1", "tree hash").check(t, "server", err)
		dave := newClient(t, "dave")
		_, err = JoinExternal(ExternalJoinConfig{GroupInfo: w.info, Tree: other.bytes(), KeyPackage: dave.kp, Secrets: dave.secrets, Rules: w.rules})
		rule("12.4.3.1", "tree hash").check(t, "joiner", err)
	})
}
