package mimimi

import (
	"time"

	"mimimi.example/pkg/mls"
)

// IsExternalJoin says whether a staged commit lets a newcomer in by external commit: the hub then asks for a valid join token (§7).
// A resync is none.
func IsExternalJoin(c *mls.Change) bool {
	_, resync := Resync(c)
	return c.Sender.Type == mls.SenderNewMemberCommit && !resync
}

// Resync returns the leaf that an external commit replaces, if it is a resync: the hub then asks for a proof by the key of that leaf
// in c.Before (§7).
func Resync(c *mls.Change) (oldLeaf uint32, ok bool) {
	if c.Sender.Type != mls.SenderNewMemberCommit {
		return 0, false
	}
	for _, p := range c.Proposals {
		if p.Type == mls.ProposalRemove {
			return p.Removed, true
		}
	}
	return 0, false
}

// review is one staged commit with what the rules want to know of it.
type review struct {
	state    *State
	change   *mls.Change
	at       time.Time
	policy   *Policy // of the epoch that is left: it decides
	next     *Policy // of the epoch that begins
	before   roster
	after    roster
	users    map[UserPseudonym]bool // of before
	external bool                   // an external join
	resync   bool
	resynced uint32       // the leaf that a resync replaces
	entrants []mls.Member // leaves that enter: Adds, or the external joiner's
}

// CheckCommit applies the rules of §4, §7 and §9 that need no secret to a commit that pkg/mls has staged, and returns the state to keep
// with c.After. at is the time of acceptance, which the hub stamps and delivers rounded to a second. It returns a *RuleError, which
// matches ErrInvalid or ErrDenied, or ErrMalformed; s stays as it is.
//
// The hub checks besides what these rules cannot see: join token or resync proof (IsExternalJoin, Resync), Welcome and GroupInfo.
func (s *State) CheckCommit(c *mls.Change, at time.Time) (*State, error) {
	r, err := s.review(c, at.Truncate(time.Second))
	if err != nil {
		return nil, err
	}
	for _, rule := range commitRules {
		if err := rule.check(r); err != nil {
			return nil, err
		}
	}
	return s.after(r), nil
}

func (s *State) review(c *mls.Change, at time.Time) (*review, error) {
	r := &review{state: s, change: c, at: at, external: IsExternalJoin(c)}
	r.resynced, r.resync = Resync(c)
	var err error
	if r.policy, err = policyOf(c.Before.Extensions()); err != nil {
		return nil, err
	}
	if r.next, err = policyOf(c.Extensions); err != nil {
		return nil, err
	}
	if r.before, err = newRoster(c.Before, nil, nil); err != nil {
		return nil, err
	}
	if r.after, err = newRoster(c.After, c.Before, r.before); err != nil {
		return nil, err
	}
	r.users = r.before.users()
	r.entrants = c.Added
	if r.external {
		r.entrants = []mls.Member{c.Committer}
	}
	return r, nil
}

// author is the user whose client made the commit.
func (r *review) author() UserPseudonym {
	if m, ok := r.before[r.change.Sender.Leaf]; ok && r.change.Sender.Type == mls.SenderMember {
		return m.Credential.UserPseudonym
	}
	return r.after[r.change.Committer.Index].Credential.UserPseudonym
}

// proposer is the user who made a proposal of the commit. checkTypes has passed.
func (r *review) proposer(p *mls.CommittedProposal) UserPseudonym {
	if m, ok := r.before[p.Sender.Leaf]; ok && p.Sender.Type == mls.SenderMember {
		return m.Credential.UserPseudonym
	}
	return r.author()
}

// proposals yields the commit's proposals of one type, in order.
func (r *review) proposals(t mls.ProposalType) []*mls.CommittedProposal {
	var out []*mls.CommittedProposal
	for i := range r.change.Proposals {
		if p := &r.change.Proposals[i]; p.Type == t {
			out = append(out, p)
		}
	}
	return out
}
