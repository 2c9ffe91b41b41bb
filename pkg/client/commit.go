package client

import (
	"bytes"
	"context"
	"encoding/hex"
	"errors"
	"fmt"
	"slices"

	mimimiv1 "mimimi.example/api/mimimi/v1"
	"mimimi.example/pkg/mimimi"
	"mimimi.example/pkg/mls"
	"mimimi.example/pkg/problem"
)

// taskKind says what a task wants done to a group.
type taskKind string

const (
	taskAdd     taskKind = "add"     // add Adds
	taskRemove  taskKind = "remove"  // remove all leaves of User
	taskEvict   taskKind = "evict"   // remove Leaf, which is unidentified, and whoever added it falsely
	taskCommit  taskKind = "commit"  // a commit of what is pending, or an empty one
	taskLeave   taskKind = "leave"   // propose the own removal
	taskRefresh taskKind = "refresh" // make the own leaf anew

	taskAddOwn    taskKind = "add own"    // add other own clients, whose KeyPackages are in Adds
	taskRemoveOwn taskKind = "remove own" // remove Client, an own one: all its leaves, or the one of Pseudonym
	taskPolicy    taskKind = "policy"     // change the policy
	taskExpel     taskKind = "expel"      // remove Leaf, whose commit nobody could process
)

// task is something that this client wants done to a group. It is stored before anything is done for it and removed in the transaction that sees it done,
// so that it survives crashes and is made anew when another commit came first.
type task struct {
	ID        string        `json:"id"`
	Kind      taskKind      `json:"kind"`
	Adds      []*adding     `json:"adds,omitempty"`
	User      string        `json:"user,omitempty"`
	Client    string        `json:"client,omitempty"` // remove own: its URI
	NotBefore int64         `json:"not_before,omitempty"`
	Leaf      uint32        `json:"leaf,omitempty"`
	Pseudonym string        `json:"pseudonym,omitempty"` // evict, expel: client pseudonym of Leaf; remove own: of the leaf that goes
	Policy    *policyRecord `json:"policy,omitempty"`
	Duty      bool          `json:"duty,omitempty"`    // nobody asked for it
	Failed    []failedAdd   `json:"failed,omitempty"`  // add: who could not be
	Request   []byte        `json:"request,omitempty"` // leave: id and message of the proposal under way
	Message   []byte        `json:"message,omitempty"`
	Tries     int           `json:"tries,omitempty"`
}

// adding is one user to be added. What is claimed is stored, so that a commit made anew uses the same set.
type adding struct {
	User     string   `json:"user"`
	Request  []byte   `json:"request"` // of the claim
	Packages [][]byte `json:"packages,omitempty"`
	LinkKeys [][]byte `json:"link_keys,omitempty"` // as many as Packages
}

func newTask(kind taskKind) *task { return &task{ID: hex.EncodeToString(newRequestID()), Kind: kind} }

// perform stores a task and works until it is done or fails. If it fails before anything of it left this client, it is taken back: nothing has changed.
func (c *Client) perform(ctx context.Context, g *group, t *task) error {
	id := g.rec.ID
	err := c.change(g, func(Tx) error {
		g.rec.Tasks = append(g.rec.Tasks, t)
		return nil
	})
	if err != nil {
		return err
	}
	c.waited = t.ID
	defer func() { delete(c.results, t.ID); c.waited = "" }()
	err = c.work(ctx, id)
	if failed, ok := c.results[t.ID]; ok {
		return failed
	}
	g, gerr := c.group(id)
	if gerr != nil {
		return errors.Join(err, gerr)
	}
	left := g.task(t.ID)
	switch {
	case left == nil:
		return nil
	case g.rec.Staged != nil && g.rec.Staged.Task == t.ID || left.Message != nil:
		return errors.Join(err, problem.New(problem.Unavailable, "it is not known whether the change was accepted: the next sync goes on with it"))
	}
	if err == nil {
		err = ErrNotReady
	}
	return errors.Join(err, c.endTask(g, t.ID))
}

func (g *group) task(id string) *task {
	for _, t := range g.rec.Tasks {
		if t.ID == id {
			return t
		}
	}
	return nil
}

// hasTask says whether a task of a kind waits.
func (g *group) hasTask(kind taskKind) bool {
	return slices.ContainsFunc(g.rec.Tasks, func(t *task) bool { return t.Kind == kind })
}

// dropTask removes a task from the record.
func (g *group) dropTask(id string) {
	g.rec.Tasks = slices.DeleteFunc(g.rec.Tasks, func(t *task) bool { return t.ID == id })
}

// endTask removes a task that will not be done.
func (c *Client) endTask(g *group, id string) error {
	return c.change(g, func(Tx) error {
		g.dropTask(id)
		return nil
	})
}

// failTask ends a task with an error. It goes to the call that waits for it; if that was in another process, it is shown as a warning. A duty that failed
// is not tried again for a while.
func (c *Client) failTask(g *group, t *task, why error) error {
	waited := c.waited == t.ID
	c.results[t.ID] = why
	return c.change(g, func(tx Tx) error {
		g.dropTask(t.ID)
		if t.Kind == taskEvict || t.Kind == taskCommit || t.Kind == taskRefresh || t.Duty {
			g.rec.QuietUntil = c.now().Add(quietFor).Unix()
			return nil
		}
		if waited {
			return nil
		}
		if (t.Kind == taskAddOwn || t.Kind == taskRemoveOwn) && !isFinal(why) && !errors.Is(why, ErrDenied) {
			// Others came first too often: it is owed all the same.
			t.Tries, t.NotBefore = 0, c.now().Add(quietFor).Unix()
			g.rec.Tasks = append(g.rec.Tasks, t)
			return nil
		}
		return c.warn(tx, g.rec.ID, "a change to the group could not be made")
	})
}

// runTask does the next thing for the first task that can go on. It reports whether there was one.
func (c *Client) runTask(ctx context.Context, g *group) (bool, error) {
	for _, t := range g.rec.Tasks {
		if !g.may(t) || c.now().Unix() < t.NotBefore {
			continue
		}
		if t.Tries >= maxCommitTries {
			return true, c.failTask(g, t, ErrBusy)
		}
		err := c.try(ctx, g, t)
		if err == nil {
			return true, nil
		}
		if lasting(err) {
			return true, c.failTask(g, t, err)
		}
		return false, err
	}
	return false, nil
}

// may says whether a task may be done now: while a leaf is unidentified only its removal may, or leaving (§4).
func (g *group) may(t *task) bool {
	return t.Kind == taskEvict || t.Kind == taskLeave || g.rec.State == GroupActive && g.identified()
}

// lasting says whether an error of a task is its own, so that trying again will not help. Limited is a service's own answer here, as that no
// KeyPackages are left; a relay that has too much to do is Unavailable (sealedTo).
func lasting(err error) bool {
	for _, e := range []error{ErrBanned, ErrDenied, ErrIdentity, ErrMember, ErrNotMember, ErrNotConnected, ErrUnknownUser, ErrGroupOver, mls.ErrInvalid} {
		if errors.Is(err, e) {
			return true
		}
	}
	return isFinal(err) || problem.KindOf(err) == problem.Limited
}

// try makes the commit for a task and stores it; it leaves with the next step. A task that has nothing left to do ends.
func (c *Client) try(ctx context.Context, g *group, t *task) error {
	var proposals []mls.Proposal
	var err error
	switch t.Kind {
	case taskLeave:
		return c.propose(ctx, g, t)
	case taskRefresh:
		return c.tryRefresh(ctx, g, t)
	case taskRemoveOwn:
		leaves := g.leavesOfClient(c.account.rec.User, t.Client)
		if t.Pseudonym != "" {
			leaves = slices.DeleteFunc(leaves, func(i uint32) bool { return g.rec.Leaves[i].ClientPseudonym != t.Pseudonym })
		}
		proposals = g.removeProposals(leaves)
		if len(proposals) == 0 && !g.pendingRemovals() {
			return c.endTask(g, t.ID)
		}
	case taskAddOwn:
		return c.tryAddOwn(g, t)
	case taskAdd:
		return c.tryAdd(ctx, g, t)
	case taskRemove:
		proposals = g.removeProposals(g.leavesOf(t.User))
		if len(proposals) == 0 && !g.pendingRemovals() {
			return c.endTask(g, t.ID)
		}
	case taskEvict:
		leaves := g.evicted(t, c.now())
		if leaves == nil {
			return c.endTask(g, t.ID)
		}
		proposals = g.removeProposals(leaves)
	case taskExpel:
		if r := g.rec.Leaves[t.Leaf]; r == nil || r.ClientPseudonym != t.Pseudonym {
			return c.endTask(g, t.ID)
		}
		proposals = g.removeProposals([]uint32{t.Leaf})
	case taskPolicy:
		if proposals, err = g.policyProposals(t); err == nil && proposals == nil {
			return c.endTask(g, t.ID)
		}
	}
	if err != nil {
		return err
	}
	return c.stage(g, t.ID, proposals, nil)
}

// pendingRemovals says whether the next commit must take up a self_remove.
func (g *group) pendingRemovals() bool { return len(g.mls.Public().Pending()) > 0 }

// removeProposals removes leaves, but those whose own proposal to leave is pending anyway.
func (g *group) removeProposals(leaves []uint32) []mls.Proposal {
	var all []mls.Proposal
	for _, i := range leaves {
		if r := g.rec.Leaves[i]; r != nil && !r.Leaving && i != g.mls.OwnIndex() {
			all = append(all, mls.Proposal{Type: mls.ProposalRemove, Removed: i})
		}
	}
	return all
}

// claimFor claims a contact's set and identifies each KeyPackage in it with a link key made of the contact's connection key. ahead is the answer if the
// store was asked already. last says that it was a last-resort set.
func (c *Client) claimFor(ctx context.Context, a *adding, lastResort bool, ahead *claim) (packages, keys [][]byte, last bool, err error) {
	user, err := mimimi.ParseUser(a.User)
	if err != nil {
		return nil, nil, false, err
	}
	contact, err := c.connected(user)
	if err != nil {
		return nil, nil, false, err
	}
	var all []*mls.KeyPackage
	if ahead != nil {
		all, last, err = ahead.set, ahead.lastResort, ahead.err
	} else {
		all, last, err = c.claimFrom(ctx, user, contact, a.Request, lastResort)
	}
	if problem.KindOf(err) == problem.Limited {
		// The token may have been replaced by another, which the contact has said in the connection group.
		was, refused := contact.Token, err
		if contact, err = c.askContact(ctx, user, contact); err != nil {
			return nil, nil, false, err
		}
		if bytes.Equal(was, contact.Token) {
			return nil, nil, false, refused
		}
		all, last, err = c.claimFrom(ctx, user, contact, a.Request, lastResort)
	}
	if err != nil {
		return nil, nil, false, err
	}
	_ = c.fetchRevocations(ctx, user.Domain()) // as in meet
	packages, keys, err = c.checkSet(all, user, contact)
	if !errors.Is(err, ErrIdentity) {
		return packages, keys, last, err
	}
	// The contact may have changed the connection key, and have said so in the connection group.
	if contact, err = c.askContact(ctx, user, contact); err != nil {
		return nil, nil, false, err
	}
	packages, keys, err = c.checkSet(all, user, contact)
	return packages, keys, last, err
}

// claimFrom claims a set of a contact by the token that this user has of it.
func (c *Client) claimFrom(ctx context.Context, user mimimi.User, contact *contactRecord, id []byte, lastResort bool) ([]*mls.KeyPackage, bool, error) {
	_, token, err := contact.secrets()
	if err != nil {
		return nil, false, err
	}
	return c.claim(ctx, user.Domain(), token, id, lastResort)
}

// checkSet checks a claimed set of a contact and returns it with its link keys.
func (c *Client) checkSet(all []*mls.KeyPackage, user mimimi.User, contact *contactRecord) (packages, links [][]byte, err error) {
	keys, err := contact.keys()
	if err != nil {
		return nil, nil, err
	}
	pseudonym := ""
	for _, kp := range all {
		link, name, err := c.checkClaimed(kp, user, keys)
		if err != nil || pseudonym != "" && name != pseudonym {
			return nil, nil, errors.Join(ErrIdentity, err)
		}
		pseudonym = name
		packages, links = append(packages, kp.Marshal()), append(links, link.Bytes())
	}
	return packages, links, nil
}

// checkClaimed checks one KeyPackage of user, made under one of the user's keys, and returns its link key and user pseudonym.
func (c *Client) checkClaimed(kp *mls.KeyPackage, user mimimi.User, keys []mimimi.ConnectionKey) (link mimimi.LinkKey, pseudonym string, err error) {
	if err := kp.Validate(c.now()); err != nil {
		return link, "", err
	}
	leaf, err := mimimi.ParseLeaf(kp.Leaf())
	if err != nil {
		return link, "", err
	}
	for _, key := range keys {
		link = leaf.Credential.LinkKey(key)
		err = c.view(func(tx Tx) error {
			cert, err := identifyLive(tx, kp.Leaf(), link, c.now())
			if err == nil && cert.User != user {
				err = ErrIdentity
			}
			return err
		})
		if !errors.Is(err, ErrIdentity) {
			break
		}
	}
	return link, leaf.Credential.UserPseudonym.Wire(), err
}

// addProposals are the Adds of a task and then one identity_link_update under the key of the epoch being left (§6).
func (g *group) addProposals(t *task) ([]mls.Proposal, error) {
	var all []mls.Proposal
	var refs [][]byte
	var keys mimimi.IdentityLinkKeys
	for _, a := range t.Adds {
		for i, b := range a.Packages {
			kp, err := mls.ParseKeyPackage(b)
			if err != nil {
				return nil, errDamagedGroup
			}
			key, err := mimimi.LinkKeyFrom(a.LinkKeys[i])
			if err != nil {
				return nil, errDamagedGroup
			}
			all = append(all, mls.Proposal{Type: mls.ProposalAdd, KeyPackage: kp})
			refs, keys.Added = append(refs, kp.Ref()), append(keys.Added, key)
		}
	}
	update, err := mimimi.NewLinkUpdateKey(g.mls)
	if err != nil {
		return nil, err
	}
	body, err := update.Seal(g.id, g.mls.Epoch(), g.mls.OwnIndex(), refs, keys)
	if err != nil {
		return nil, err
	}
	return append(all, mls.Proposal{Type: mimimi.ProposalIdentityLinkUpdate, Body: body}), nil
}

// welcomeExtensions are what newcomers get: the link keys of all members of the next tree, their own included, by leaf.
func (g *group) welcomeExtensions(t *task) func(next *mls.Group) ([]mls.Extension, error) {
	return func(next *mls.Group) ([]mls.Extension, error) {
		added := make(map[string][]byte) // by signature key, which is unique in a tree
		for _, a := range t.Adds {
			for i, b := range a.Packages {
				kp, err := mls.ParseKeyPackage(b)
				if err != nil {
					return nil, errDamagedGroup
				}
				added[string(kp.Leaf().SignatureKey())] = a.LinkKeys[i]
			}
		}
		keys := g.linkKeys()
		for _, m := range next.Public().Members() {
			b, ok := added[string(m.Leaf.SignatureKey())]
			if !ok {
				continue
			}
			key, err := mimimi.LinkKeyFrom(b)
			if err != nil {
				return nil, errDamagedGroup
			}
			for uint32(len(keys)) <= m.Index {
				keys = append(keys, nil)
			}
			keys[m.Index] = &key
		}
		return []mls.Extension{mimimi.MarshalIdentityLinks(keys)}, nil
	}
}

// stage makes a commit, checks it by the rules that the hub will apply, and stores it. Nothing has left this client yet.
func (c *Client) stage(g *group, taskID string, proposals []mls.Proposal, t *task) error {
	opts := mls.CommitOptions{Proposals: proposals, HubExtensions: hubExtensions, Path: true, Now: c.now(), Skip: g.distrusted}
	if t != nil && len(t.Adds) > 0 {
		opts.WelcomeExtensions = g.welcomeExtensions(t)
	}
	renewed, err := c.renewLeaf(g, len(proposals) == 0)
	if err != nil {
		return err
	}
	var own *leafSecrets
	if renewed != nil {
		if own, err = c.ownRenewal(renewed); err != nil {
			return err
		}
		opts.NewLeaf = &renewed.Change
	}
	if renewed != nil && renewed.Change.Credential != nil {
		update, err := refreshed(g, renewed)
		if err != nil {
			return err
		}
		opts.Proposals = []mls.Proposal{update}
	}
	staged, err := g.mls.Commit(opts)
	if err != nil {
		return fmt.Errorf("make commit: %w", err)
	}
	if _, err := g.rules.CheckCommit(staged.Change, c.now()); err != nil {
		return denied(problem.Wrap(problem.Invalid, "the change would break a rule of the protocol", err))
	}
	return c.change(g, func(Tx) error {
		g.rec.Staged = &stagedRecord{Task: taskID, Request: newRequestID(), Commit: staged.Marshal(), Message: staged.Message, Own: own}
		if t != nil {
			for _, a := range t.Adds {
				g.rec.Staged.Adds = append(g.rec.Staged.Adds, a.User)
			}
		}
		if t := g.task(taskID); t != nil {
			t.Tries++
		}
		return nil
	})
}

// ownCommit returns the stored commit. That it was made or read in this process already saves a large group's work.
func (g *group) ownCommit() (*mls.StagedCommit, error) {
	if g.staged == nil || !bytes.Equal(g.staged.Message, g.rec.Staged.Message) {
		staged, err := mls.ParseStagedCommit(g.rec.Staged.Commit, protocolRules())
		if err != nil {
			return nil, errDamagedGroup
		}
		g.staged = staged
	}
	return g.staged, nil
}

// sendStaged offers the stored commit to the hub. The answers: accepted, then it is merged at its place in the log; stale or refused, then the log says
// what came first, and perhaps that an earlier try of this very commit was accepted; no answer, then it stays and is offered again, under the same id.
func (c *Client) sendStaged(ctx context.Context, g *group) error {
	s := g.rec.Staged
	staged, err := g.ownCommit()
	if err != nil {
		return err
	}
	hub, err := c.hub(ctx, g.id.Domain())
	if err != nil {
		return err
	}
	res, err := call(ctx, hub.Commit, &mimimiv1.CommitRequest{
		RequestId: s.Request, GroupId: g.rec.GroupID, Commit: staged.Message, Welcome: staged.Welcome, GroupInfo: staged.GroupInfo,
	})
	switch {
	case err == nil && res.Previous <= g.rec.Last:
		return c.receive(ctx, g, &mimimiv1.Delivery{
			GroupId: g.rec.GroupID, Sequence: res.Sequence, Previous: res.Previous, Accepted: res.Accepted,
			Kind: mimimiv1.Delivery_KIND_COMMIT, Message: staged.Message, Epoch: staged.Change.Epoch,
		}, 0)
	case err == nil:
		return c.catchUpAs(ctx, g, named)
	case !isStale(err) && !isFinal(err):
		return fmt.Errorf("commit: %w", err)
	}
	refusal := err
	if err := c.catchUpAs(ctx, g, named); err != nil {
		return errors.Join(fmt.Errorf("commit: %w", refusal), err, c.noteUnknown(g, err))
	}
	if g.rec.State == GroupOver || g.rec.Staged == nil || !bytes.Equal(g.rec.Staged.Request, s.Request) {
		return nil // accepted after all, or overtaken: a task that is not done is tried anew
	}
	task := g.task(s.Task)
	if err := c.change(g, func(Tx) error { g.rec.Staged = nil; return nil }); err != nil {
		return err
	}
	if task != nil && !isStale(refusal) {
		return c.failTask(g, task, denied(fmt.Errorf("commit: %w", refusal)))
	}
	return nil
}

// denied makes a refusal by policy match ErrDenied.
func denied(err error) error {
	if problem.KindOf(err) == problem.Denied || errors.Is(err, mimimi.ErrDenied) {
		return fmt.Errorf("%w: %w", ErrDenied, err)
	}
	return err
}

// propose sends the own self_remove. It is made anew for each epoch until one is accepted; the group is then over at its place in the log (§9).
func (c *Client) propose(ctx context.Context, g *group, t *task) error {
	if t.Message == nil {
		err := c.change(g, func(Tx) error {
			// The proposal is made in a copy: it becomes pending here only by its place in the log.
			scratch, err := mls.ParseGroup(g.mls.Marshal(), protocolRules())
			if err != nil {
				return errDamagedGroup
			}
			if t.Message, err = scratch.Propose(mls.Proposal{Type: mls.ProposalSelfRemove}, mls.ProposeOptions{}); err != nil {
				return err
			}
			t.Request = newRequestID()
			t.Tries++
			return nil
		})
		if err != nil {
			return fmt.Errorf("propose: %w", err)
		}
	}
	hub, err := c.hub(ctx, g.id.Domain())
	if err != nil {
		return err
	}
	res, err := call(ctx, hub.Propose, &mimimiv1.ProposeRequest{RequestId: t.Request, GroupId: g.rec.GroupID, Proposal: t.Message})
	switch {
	case err == nil:
		return c.left(g, t, res.Sequence)
	case !isStale(err) && !isFinal(err):
		return fmt.Errorf("propose: %w", err)
	}
	refusal := err
	err = c.catchUpAs(ctx, g, named)
	if err != nil && !isFinal(err) {
		return err
	}
	if g.rec.State == GroupOver {
		return nil
	}
	if err := c.noteUnknown(g, err); err != nil {
		return err
	}
	err = c.change(g, func(Tx) error {
		t.Message, t.Request = nil, nil
		return nil
	})
	if err == nil && !isStale(refusal) {
		err = refusal
	}
	return err
}

// left takes note that the own self_remove has its place in the log. What stands before it and is still on its way is shown; the group ends there.
func (c *Client) left(g *group, t *task, at uint64) error {
	return c.change(g, func(tx Tx) error {
		g.dropTask(t.ID)
		g.rec.LeaveAt, g.rec.State = at, GroupLeaving
		if !g.rec.Idle { // each of the user's clients sees for itself which of two connection groups stays
			if err := c.shareLeft(tx, g); err != nil {
				return err
			}
		}
		if g.rec.Last >= at { // it came from the log before the hub's answer
			return c.over(tx, g, leftSentence, 0)
		}
		return nil
	})
}

const (
	leftSentence    = "you left the group"
	removedSentence = "you were removed from the group"
)
