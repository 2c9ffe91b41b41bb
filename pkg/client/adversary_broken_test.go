package client_test

import (
	"bytes"
	"crypto/hmac"
	"crypto/sha256"
	"slices"
	"testing"
	"time"

	"mimimi.example/pkg/client"
	"mimimi.example/pkg/mls"
)

// The end of a commit as PublicMessage: signature, confirmation tag and membership tag, each with its length.
const (
	signaturePart = 2 + 64
	tagPart       = 1 + 32
	commitTail    = signaturePart + 2*tagPart
)

// broken is a commit that no hub can tell from a good one, and whose path does not open: the last sealed path secret is damaged, and all that covers it, but for
// what only the members' keys make, is right again.
func broken(t *testing.T, in *client.Insider) *mls.StagedCommit {
	t.Helper()
	staged := commit(t, in, mls.CommitOptions{})
	context, state := in.Group.Public().GroupContext(), in.Group.Marshal()
	m := staged.Message
	content, auth := m[:len(m)-commitTail], m[len(m)-commitTail:]
	mac := func(key []byte, content, auth []byte) []byte {
		h := hmac.New(sha256.New, key)
		h.Write(slices.Concat(content, context, auth[:signaturePart+tagPart]))
		return h.Sum(nil)
	}
	at := 2 + 2 + 1 + len(in.ID.Wire()) + 8 + 1 + 32 + 1 // version, suite, group id, epoch, tree hash
	confirmed := context[at : at+32]
	transcript := func(tag, content, auth []byte) []byte {
		interim := sha256.Sum256(slices.Concat(confirmed, []byte{32}, tag))
		h := sha256.Sum256(slices.Concat(interim[:], content[2:], auth[:signaturePart])) // without the version
		return h[:]
	}
	after := staged.Change.After.GroupContext()
	membership := find(t, state, func(b []byte) bool { return hmac.Equal(mac(b, content, auth), auth[len(auth)-32:]) })
	tag := find(t, state, func(b []byte) bool { return bytes.Contains(after, transcript(b, content, auth)) })
	old := transcript(tag, content, auth)

	content, auth = bytes.Clone(content), bytes.Clone(auth)
	content[len(content)-1] ^= 1
	copy(auth[2:], in.Own.SignatureKey.SignWithLabel("FramedContentTBS", slices.Concat(content, context)))
	copy(auth[len(auth)-32:], mac(membership, content, auth))
	staged.Message = slices.Concat(content, auth)

	info := bytes.Replace(staged.GroupInfo, old, transcript(tag, content, auth), 1)
	signInfo(in, info)
	staged.GroupInfo = info
	return staged
}

// signInfo signs a changed GroupInfo anew.
func signInfo(in *client.Insider, info []byte) {
	const header = 4 // version and wire format
	copy(info[len(info)-64:], in.Own.SignatureKey.SignWithLabel("GroupInfoTBS", info[header:len(info)-signaturePart]))
}

// find returns the 32 bytes of a state that are what is looked for.
func find(t *testing.T, state []byte, is func([]byte) bool) []byte {
	t.Helper()
	for i := range len(state) - 31 {
		if is(state[i : i+32]) {
			return state[i : i+32]
		}
	}
	t.Fatal("the state does not hold it")
	return nil
}

// TestBrokenCommits: a member makes a commit that the hub takes and nobody can process: its path does not open, or it is not proven that a member sent it. The
// others see it, say so, enter the group anew and talk on.
func TestBrokenCommits(t *testing.T) {
	c := newCast(t)
	for _, x := range []struct {
		name string
		make func(t *testing.T, in *client.Insider) *mls.StagedCommit
	}{
		{"path", broken},
		{"membership tag", func(t *testing.T, in *client.Insider) *mls.StagedCommit {
			staged := commit(t, in, mls.CommitOptions{})
			staged.Message[len(staged.Message)-1] ^= 1
			return staged
		}},
	} {
		t.Run(x.name, func(t *testing.T) {
			c.t = t
			c.anew()
			in := c.inside(c.eve)
			_, err := offer(t, in.ID, x.make(t, in))
			check(t, err)
			for _, p := range []*person{c.alice, c.bob} {
				until(t, p.name+" sees it", func() bool { return p.warnings(c.group[p]) > 0 }, p)
				client.ResyncNow(p.c, c.group[p])
				until(t, p.name+" is back", func() bool { return !client.Lost(p.c, c.group[p]) && c.inside(p).Group.Epoch() > in.Group.Epoch()+1 }, p)
			}
			for from, to := range map[*person]*person{c.alice: c.bob, c.bob: c.alice} {
				text := from.name + " is back " + time.Now().String()
				from.send(c.group[from], text)
				until(t, to.name+" reads", func() bool { return slices.Contains(to.read(c.group[to]), text) }, from, to)
			}
			if c.alice.ending(c.group[c.alice])+c.bob.ending(c.group[c.bob]) != "" {
				t.Error("the group is over")
			}
		})
	}
}
