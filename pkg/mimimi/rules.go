package mimimi

import (
	"bytes"

	"mimimi.example/pkg/mls"
)

// commitRule is one rule about commits. Its name is that of the test that breaks it.
type commitRule struct {
	name  string
	check func(*review) error
}

// commitRules are all rules about commits, in the order in which they are asked: form before policy, so that "denied" is said only of
// what could have been allowed. What they ask of single leaves is in ParseLeaf, of the GroupContext in policyOf.
var commitRules = []commitRule{
	{"proposal types", checkTypes},
	{"adds xor removes", checkAddsXorRemoves},
	{"self removes taken up", checkSelfRemoves},
	{"adds by value", checkAdds},
	{"link update", checkLinkUpdate},
	{"unique in the tree", checkUnique},
	{"user pseudonym in the tree", checkUserPseudonym},
	{"barred", checkBarred},
	{"age", checkAge},
	{"updated leaf", checkUpdated},
	{"resync", checkResync},
	{"policy change", checkPolicyChange},
	{"may add", checkMayAdd},
	{"last resort", checkLastResort},
	{"may remove", checkMayRemove},
	{"external joins", checkExternalJoins},
	{"one joiner at a time", checkOneJoiner},
	{"max leaves", checkMaxLeaves},
}

// checkTypes lets only those proposals through that version 1.0 has rules for, from members.
func checkTypes(r *review) error {
	for _, p := range r.change.Proposals {
		switch p.Type {
		case mls.ProposalAdd, mls.ProposalUpdate, mls.ProposalRemove, mls.ProposalSelfRemove,
			mls.ProposalGroupContextExtensions, mls.ProposalExternalInit, ProposalIdentityLinkUpdate:
		default:
			return invalid("9", "no PSK, ReInit or unknown proposal in version 1.0")
		}
		if p.Sender.Type != mls.SenderMember && (p.ByReference || r.change.Sender.Type == mls.SenderMember) {
			return invalid("9", "proposals come from members")
		}
	}
	return nil
}

// checkAddsXorRemoves: a removed member still owns the exporter of the epoch being left, under which added members' link keys
// travel.
func checkAddsXorRemoves(r *review) error {
	if len(r.change.Added) > 0 && len(r.change.Removed) > 0 {
		return invalid("6", "no commit both adds and removes")
	}
	return nil
}

func checkSelfRemoves(r *review) error {
	taken := map[uint32]bool{}
	for _, p := range r.proposals(mls.ProposalSelfRemove) {
		taken[p.Sender.Leaf] = true
	}
	for _, p := range r.change.Before.Pending() {
		if p.Type == mls.ProposalSelfRemove && !taken[p.Sender.Leaf] {
			return invalid("9", "every pending self_remove is taken up")
		}
	}
	return nil
}

func checkAdds(r *review) error {
	adds := r.proposals(mls.ProposalAdd)
	if len(adds) > maxAdds {
		return invalid("6", "at most 200 Adds")
	}
	for _, p := range adds {
		if p.ByReference {
			return invalid("6", "Adds are made by value")
		}
		if err := checkKind(p.KeyPackage, isLastResort(p.KeyPackage)); err != nil {
			return err
		}
	}
	return nil
}

// checkLinkUpdate: exactly one identity_link_update after the Adds, at most one without Adds. Its length, which is public, shows that it
// has a key for each Add, and the sender's own if its credential changes.
func checkLinkUpdate(r *review) error {
	updates := r.proposals(ProposalIdentityLinkUpdate)
	replaced := r.replacesCredential()
	switch {
	case len(updates) > 1:
		return invalid("6", "at most one identity_link_update")
	case len(updates) == 0 && len(r.change.Added) > 0:
		return invalid("6", "one identity_link_update with the Adds")
	case len(updates) == 0 && replaced:
		return invalid("4", "a replaced credential's link key goes into the same commit")
	case len(updates) == 0:
		return nil
	case r.change.Sender.Type != mls.SenderMember || updates[0].ByReference:
		return invalid("6", "an identity_link_update is a member's, by value")
	case r.addAfterLinkUpdate():
		return invalid("6", "the identity_link_update stands after the Adds")
	}
	var u identityLinkUpdate
	if err := decode(updates[0].Body, u.read); err != nil {
		return err
	}
	adds := len(r.change.Added)
	withOwn := len(u.ciphertext) == identityLinkUpdateSize(adds, true)
	switch {
	case !withOwn && len(u.ciphertext) != identityLinkUpdateSize(adds, false):
		return invalid("6", "an identity_link_update has a key for each Add")
	case replaced && !withOwn:
		return invalid("4", "a replaced credential's link key goes into the same commit")
	}
	return nil
}

// replacesCredential says whether a member replaces its own credential by the commit's path.
func (r *review) replacesCredential() bool {
	old, was := r.before[r.change.Committer.Index]
	return was && r.change.Sender.Type == mls.SenderMember && !old.Credential.equal(r.after[r.change.Committer.Index].Credential)
}

func (r *review) addAfterLinkUpdate() bool {
	update := false
	for _, p := range r.change.Proposals {
		if update && p.Type == mls.ProposalAdd {
			return true
		}
		update = update || p.Type == ProposalIdentityLinkUpdate
	}
	return false
}

func checkUnique(r *review) error {
	if len(r.entrants)+len(r.change.Updated) == 0 && !r.resync {
		return nil
	}
	return r.after.checkUnique(r.change.After.Members())
}

// checkUserPseudonym: roles hang on user pseudonyms, and those are self-asserted, so nobody may bring in a leaf under another's.
func checkUserPseudonym(r *review) error {
	for _, m := range r.entrants {
		user := r.after[m.Index].Credential.UserPseudonym
		if r.users[user] && (r.external || user != r.author()) {
			return invalid("9", "a new leaf of a user pseudonym in the tree comes only from that user, or is a resync")
		}
	}
	return nil
}

func checkBarred(r *review) error {
	if len(r.entrants) > 0 && len(r.state.barred) > maxBarred {
		return invalid("9", "a group that has barred 65536 pseudonyms takes no newcomers")
	}
	for _, m := range r.entrants {
		pc := r.after[m.Index].Credential
		if r.state.isBarred(pc.UserPseudonym.Wire()) || r.state.isBarred(pc.ClientPseudonym.Wire()) {
			return invalid("9", "pseudonyms of a user whose last leaf has gone are barred")
		}
	}
	return nil
}

// checkAge reads a new credential's age from its week, since a path's leaf has no lifetime.
func checkAge(r *review) error {
	fresh := r.entrants
	if r.replacesCredential() {
		fresh = append(fresh[:len(fresh):len(fresh)], r.change.Committer)
	}
	for _, m := range fresh {
		if !liveWeek(r.after[m.Index].Credential.Week, r.at) {
			return invalid("2", "a leaf enters within 90 days from its week")
		}
	}
	return nil
}

// checkUpdated: pseudonyms stay; a credential changes only by a commit, which can carry its link key.
func checkUpdated(r *review) error {
	for _, m := range r.change.Updated {
		old, next := r.before[m.Index].Credential, r.after[m.Index].Credential
		switch {
		case !next.samePseudonyms(old):
			return invalid("9", "a path or Update leaf keeps both pseudonyms")
		case m.Leaf.Source() == mls.LeafFromUpdate && !next.equal(old):
			return invalid("4", "an Update keeps the credential")
		}
	}
	return nil
}

func checkResync(r *review) error {
	if r.resync && !r.after[r.change.Committer.Index].Credential.equal(r.before[r.resynced].Credential) {
		return invalid("9", "a resync keeps the whole credential")
	}
	return nil
}

func checkPolicyChange(r *review) error {
	for _, p := range r.proposals(mls.ProposalGroupContextExtensions) {
		if r.policy.Role(r.proposer(p)) < RoleAdmin {
			return denied("9", "only an admin changes the policy")
		}
	}
	if r.next.UnidentifiedMembers != r.policy.UnidentifiedMembers {
		return invalid("4", "whether unidentified members are allowed is fixed at creation")
	}
	if len(r.proposals(mls.ProposalGroupContextExtensions)) == 0 {
		return nil
	}
	return checkAdmins(r.next, r.users)
}

// checkAdmins: who is made an admin is a member of the epoch in which that is proposed, so that no role waits for a pseudonym, and somebody is one. That
// the members of the epoch that is left are asked, not those who stay, keeps one who leaves from blocking a proposal that names it.
func checkAdmins(next *Policy, users map[UserPseudonym]bool) error {
	for _, a := range next.Admins {
		if !users[a] {
			return invalid("9", "the admins of a new policy are members")
		}
	}
	if len(next.Admins) == 0 {
		return invalid("9", "a new policy has an admin")
	}
	return nil
}

// checkMayAdd: a user may always add clients of its own.
func checkMayAdd(r *review) error {
	author := r.author()
	for _, m := range r.change.Added {
		own := r.after[m.Index].Credential.UserPseudonym == author
		if !own && r.policy.Role(author) < r.policy.MayAdd {
			return denied("9", "the policy says who may add")
		}
	}
	return nil
}

func checkLastResort(r *review) error {
	for _, p := range r.proposals(mls.ProposalAdd) {
		if !r.policy.LastResort && isLastResort(p.KeyPackage) {
			return denied("8", "the policy forbids last-resort KeyPackages")
		}
	}
	return nil
}

func checkMayRemove(r *review) error {
	if r.resync {
		return nil // its one Remove is of the leaf that it replaces
	}
	removes := r.proposals(mls.ProposalRemove)
	for _, p := range removes {
		if !r.mayRemove(p, removes) {
			return denied("9", "the policy says who may remove")
		}
	}
	return nil
}

// mayRemove: who the policy allows; any user its own clients; and any member a leaf that entered within 24 hours, with whoever added a
// leaf that is removed so in the same commit (§4).
func (r *review) mayRemove(p *mls.CommittedProposal, all []*mls.CommittedProposal) bool {
	user := r.proposer(p)
	if mayRemove(r.policy, user, r.before[p.Removed].Credential) || r.state.entered(p.Removed, freshEntry, r.at) {
		return true
	}
	for _, o := range all {
		if r.state.entered(o.Removed, freshEntry, r.at) && r.state.entries[o.Removed].adder == p.Removed {
			return true
		}
	}
	return false
}

func mayRemove(policy *Policy, user UserPseudonym, removed *PseudonymousCredential) bool {
	return policy.Role(user) >= policy.MayRemove || removed.UserPseudonym == user
}

func checkExternalJoins(r *review) error {
	if r.external && !r.policy.ExternalJoins {
		return denied("9", "the policy allows no external joins")
	}
	return nil
}

func checkOneJoiner(r *review) error {
	_, since, ok := r.state.Unanswered()
	if r.external && ok && r.at.Before(since.Add(joinerPatience)) {
		return denied("4", "the next external joiner waits for another leaf's commit or ten minutes")
	}
	return nil
}

func checkMaxLeaves(r *review) error {
	if len(r.after) > int(r.next.MaxLeaves) {
		return denied("9", "the group has at most so many leaves")
	}
	return nil
}

// CheckProposal applies the rules to a standalone proposal that pkg/mls has checked, before it takes its place in the log. A Remove
// under the rule of 24 hours is made by value, in a commit. It returns a *RuleError or ErrMalformed.
func (s *State) CheckProposal(g *mls.PublicGroup, p *mls.CommittedProposal) error {
	policy, err := policyOf(g.Extensions())
	if err != nil {
		return err
	}
	leaf, ok := g.Member(p.Sender.Leaf)
	if !ok || p.Sender.Type != mls.SenderMember {
		return invalid("9", "proposals come from members")
	}
	sender, err := ParseLeaf(leaf)
	if err != nil {
		return err
	}
	switch p.Type {
	case mls.ProposalSelfRemove:
		return nil
	case mls.ProposalUpdate:
		return checkUpdateProposal(sender, p.Leaf)
	case mls.ProposalRemove:
		return checkRemoveProposal(g, policy, sender, p.Removed)
	case mls.ProposalGroupContextExtensions:
		return checkPolicyProposal(g, policy, sender, p.Extensions)
	case mls.ProposalAdd, ProposalIdentityLinkUpdate:
		return invalid("6", "Adds and identity_link_updates are made by value")
	}
	return invalid("9", "no PSK, ReInit or unknown proposal in version 1.0")
}

func checkUpdateProposal(sender *LeafIdentity, leaf *mls.LeafNode) error {
	next, err := ParseLeaf(leaf)
	if err != nil {
		return err
	}
	if !bytes.Equal(next.Credential.Credential().Body, sender.Credential.Credential().Body) {
		return invalid("4", "an Update keeps the credential")
	}
	return nil
}

func checkRemoveProposal(g *mls.PublicGroup, policy *Policy, sender *LeafIdentity, removed uint32) error {
	leaf, ok := g.Member(removed)
	if !ok {
		return invalid("9", "one removes a member")
	}
	id, err := ParseLeaf(leaf)
	if err != nil {
		return err
	}
	if !mayRemove(policy, sender.Credential.UserPseudonym, id.Credential) {
		return denied("9", "the policy says who may remove")
	}
	return nil
}

// checkPolicyProposal also refuses what no commit could take up.
func checkPolicyProposal(g *mls.PublicGroup, policy *Policy, sender *LeafIdentity, exts []mls.Extension) error {
	if policy.Role(sender.Credential.UserPseudonym) < RoleAdmin {
		return denied("9", "only an admin changes the policy")
	}
	next, err := policyOf(exts)
	if err != nil {
		return err
	}
	if next.UnidentifiedMembers != policy.UnidentifiedMembers {
		return invalid("4", "whether unidentified members are allowed is fixed at creation")
	}
	members, err := newRoster(g, nil, nil)
	if err != nil {
		return err
	}
	if len(members) > int(next.MaxLeaves) {
		return denied("9", "the group has at most so many leaves")
	}
	return checkAdmins(next, members.users())
}
