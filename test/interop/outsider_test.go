package interop

import (
	"fmt"
	"testing"

	"mimimi.example/pkg/mls"
)

// proposeJoin lets a client propose that it be added.
func (r *room) proposeJoin(m, informer *member) {
	r.t.Helper()
	q := request{Op: "proposeJoin", Profile: &m.profile}
	q.GroupInfo, q.Tree = informer.groupInfo()
	r.hear(pending{from: m, what: proposal{Type: uint16(mls.ProposalAdd)}, message: m.do(q).Message, joiner: m}, false)
}

// TestJoinProposals lets clients propose that they be added, alone and beside proposals of members.
func TestJoinProposals(t *testing.T) {
	eachPair(t, func(t *testing.T, first, second *implementation) {
		r, a, b := couple(t, first, second)
		for _, committer := range []*member{a, b} {
			for _, impl := range []*implementation{first, second} {
				r.proposeJoin(newMember(t, impl, 1, fmt.Sprint("of ", impl.name, " for ", committer)), a)
				r.commit(committer, commit{r: request{WithTree: true}})
			}
			r.proposeJoin(newMember(t, first, 1, fmt.Sprint("one for ", committer)), b)
			r.proposeJoin(newMember(t, second, 1, fmt.Sprint("two for ", committer)), b)
			r.proposeAdd(a, newMember(t, second, 1, fmt.Sprint("three for ", committer)), false)
			r.propose(b, customProposal, false)
			r.commit(committer, commit{r: request{Path: true, Private: true}})
		}
		for _, m := range r.members {
			r.read(r.send(m, []byte("from "+m.String())))
		}
	})
}

// sender is somebody outside whom the group lists as external sender.
type sender struct {
	*member
	index uint32
	key   mls.ExternalSender
}

// newSender makes a client that is to be an external sender.
func newSender(t *testing.T, impl *implementation, index uint32) *sender {
	t.Helper()
	m := newMember(t, impl, 1, fmt.Sprint("external sender ", index))
	c := m.profile.Credential
	return &sender{m, index, mls.ExternalSender{
		SignatureKey: m.do(request{Op: "signer", Profile: &m.profile}).Key,
		Credential:   mls.Credential{Type: mls.CredentialType(c.Type), Body: c.Body},
	}}
}

// listing is a proposal of GroupContext extensions that list external senders.
func (r *room) listing(policy string, senders ...*sender) proposal {
	var keys []mls.ExternalSender
	for _, s := range senders {
		keys = append(keys, s.key)
	}
	e := mls.ExternalSendersExtension(keys...)
	p := r.context(policy)
	p.Extensions = append(p.Extensions, extension{uint16(e.Type), e.Data})
	return p
}

// proposeOutside lets an external sender propose. joiner is whom an Add is about.
func (r *room) proposeOutside(s *sender, informer *member, p proposal, joiner *member) {
	r.t.Helper()
	q := request{Op: "proposeExternal", Proposal: &p, Sender: s.index}
	if joiner != nil {
		p.KeyPackage = joiner.keyPackage()
	}
	q.GroupInfo, q.Tree = informer.groupInfo()
	r.hear(pending{from: s.member, what: p, message: s.do(q).Message, joiner: joiner}, false)
}

// TestExternalSenders lets external senders of both implementations propose what they may, and members of both commit it.
func TestExternalSenders(t *testing.T) {
	eachPair(t, func(t *testing.T, first, second *implementation) {
		needs(t, first, externalSenders)
		needs(t, second, externalSenders)
		r, a, b := couple(t, first, second)
		senders := []*sender{newSender(t, first, 0), newSender(t, second, 1)}
		r.commit(a, commit{others: []proposal{r.listing("a policy", senders...)}})
		for _, s := range senders {
			for _, committer := range []*member{a, b} {
				who := fmt.Sprint(s.index, committer)
				c, d := newMember(t, first, 1, "c "+who), newMember(t, second, 1, "d "+who)
				r.proposeOutside(s, a, proposal{Type: uint16(mls.ProposalAdd)}, c)
				r.proposeOutside(s, b, proposal{Type: uint16(mls.ProposalAdd)}, d)
				r.commit(committer, commit{r: request{WithTree: true}})
				r.proposeOutside(s, b, proposal{Type: uint16(mls.ProposalRemove), Removed: c.last.Leaf}, nil)
				r.propose(d, customProposal, false)
				r.commit(committer, commit{})
				r.proposeOutside(s, a, r.listing("a policy by "+who, senders...), nil)
				r.commit(committer, commit{r: request{Private: true}})
				r.serve(a)
				if first.can(externalSenderPSK) && second.can(externalSenderPSK) {
					r.proposeOutside(s, a, proposal{Type: uint16(mls.ProposalPSK), PSK: r.psk("by " + who)}, nil)
					r.proposeOutside(s, a, r.resumption(1), nil)
					r.commit(committer, commit{})
				}
			}
		}
		if !first.can(reInit) || !second.can(reInit) {
			return
		}
		r.commit(a, commit{add: []*member{newMember(t, second, 1, "at a leaf that is blank")}, r: request{WithTree: true}})
		for i, s := range senders {
			p := proposal{
				Type: uint16(mls.ProposalReInit), Group: fmt.Appendf(nil, "successor by %d", i), Suite: 1,
				Extensions: r.listing("a policy", senders...).Extensions,
			}
			r.proposeOutside(s, r.members[0], p, nil)
			r.commit(r.members[i], commit{})
			r = r.succeed(r.members[1-i], 1, p.Group, r.members)
			r.exchange(r.members...)
		}
	})
}
