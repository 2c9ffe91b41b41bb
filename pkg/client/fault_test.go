package client

import (
	"slices"
	"testing"
	"time"

	mimimiv1 "mimimi.example/api/mimimi/v1"
	"mimimi.example/pkg/mimimi"
	"mimimi.example/pkg/mls"
)

// bare is a client with nothing but a store and a clock.
func bare(t *testing.T) *Client {
	t.Helper()
	s, err := openStore(&Config{Dir: t.TempDir()})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := s.Close(); err != nil {
			t.Error(err)
		}
	})
	return &Client{cfg: Config{Now: time.Now}, news: make(chan struct{}), slot: make(chan struct{}, 1), store: s, groups: make(map[string]*group)}
}

// TestWhoIsAtFault: in a conflict over a user or a user pseudonym the leaf that entered later is at fault, in whichever order they are identified; the own leaf never is.
func TestWhoIsAtFault(t *testing.T) {
	made, _ := lonely(t, "a")
	for _, x := range []struct {
		name           string
		first, second  leafRecord // the first is identified, the second shows that it is bob
		fault, unnamed bool       // of the second, of the first
	}{
		{"the second came later", leafRecord{User: "alice", UserPseudonym: "p", Place: 3}, leafRecord{UserPseudonym: "p", Place: 5}, true, false},
		{"the second came first", leafRecord{User: "alice", UserPseudonym: "p", Place: 5}, leafRecord{UserPseudonym: "p", Place: 3}, false, true},
		{"one user, two pseudonyms, later", leafRecord{User: "bob", UserPseudonym: "p", Place: 3}, leafRecord{UserPseudonym: "q", Place: 5}, true, false},
		{"one user, two pseudonyms, first", leafRecord{User: "bob", UserPseudonym: "p", Place: 5}, leafRecord{UserPseudonym: "q"}, false, true},
		{"another user", leafRecord{User: "alice", UserPseudonym: "p", Place: 5}, leafRecord{UserPseudonym: "q", Place: 3}, false, false},
		{"another client", leafRecord{User: "bob", UserPseudonym: "p", Place: 5}, leafRecord{UserPseudonym: "p", Place: 3}, false, false},
	} {
		first, second := x.first, x.second
		g := &group{mls: made, rec: &groupRecord{Leaves: map[uint32]*leafRecord{1: &first, 2: &second}}}
		if got := g.conflicts(2, "bob"); got != x.fault || first.Bad != x.unnamed || (first.User == "") != x.unnamed {
			t.Errorf("%s: at fault %v, the other one %v", x.name, got, first.Bad)
		}
	}
	self, later := leafRecord{User: "alice", UserPseudonym: "p", Place: 9}, leafRecord{UserPseudonym: "p", Place: 3}
	g := &group{mls: made, rec: &groupRecord{Leaves: map[uint32]*leafRecord{0: &self, 2: &later}}}
	if !g.conflicts(2, "bob") || self.Bad {
		t.Error("the own leaf is at fault")
	}
}

// TestJudge: a commit that nobody can process is its author's doing only if the GroupInfo that the author signed has its confirmation tag; else the hub is at fault,
// and that is said. Who comes back later, when others have committed, accuses nobody.
func TestJudge(t *testing.T) {
	made, _ := lonely(t, "a")
	info, err := made.GroupInfo(nil, false)
	if err != nil {
		t.Fatal(err)
	}
	gi, err := mls.ParseGroupInfo(info)
	if err != nil {
		t.Fatal(err)
	}
	for _, x := range []struct {
		name   string
		blame  blameRecord
		epoch  uint64
		proven bool
		warned int
	}{
		{"the author's", blameRecord{Leaf: gi.Signer, Tag: gi.ConfirmationTag}, 0, true, 0},
		{"another tag", blameRecord{Leaf: gi.Signer, Tag: []byte("other")}, 0, false, 1},
		{"another signer", blameRecord{Leaf: gi.Signer + 1, Tag: gi.ConfirmationTag}, 0, false, 1},
		{"not the first one back", blameRecord{Leaf: gi.Signer, Tag: gi.ConfirmationTag}, 1, false, 0},
	} {
		c := bare(t)
		blame := x.blame
		g := &group{mls: made, rec: &groupRecord{ID: "g", Resync: &resyncState{Blame: &blame}}}
		err := c.update(func(tx Tx) error { return c.judge(tx, g, &mimimiv1.GetGroupResponse{GroupInfo: info, Epoch: x.epoch}) })
		if err != nil {
			t.Fatal(err)
		}
		if b := g.rec.Resync.Blame; (b != nil && b.Proven) != x.proven {
			t.Errorf("%s: proven %v", x.name, !x.proven)
		}
		if e, err := c.Events(t.Context(), 0, 0); err != nil || len(e) != x.warned {
			t.Errorf("%s: %d warnings (%v)", x.name, len(e), err)
		}
	}
}

// TestAnswerIsOfItsEpoch: an answer to a connection request that did not get its place in the epoch for which the leaves were looked at is dropped, and a new one
// is made only if they still are who they should be.
func TestAnswerIsOfItsEpoch(t *testing.T) {
	made, _ := lonely(t, "a")
	epoch := made.Epoch()
	g := &group{mls: made, rec: &groupRecord{Peer: "alice", Epochs: mimimi.NewEpochs(epoch).Records(), Respond: true, Leaves: map[uint32]*leafRecord{
		0: {User: "bob"}, 1: {User: "alice"}}}}
	g.post(&outgoing{Type: mimimi.EnvelopeConnectionResponse, OnlyIn: &epoch, Message: []byte("x")})
	g.recount()
	if !g.posted(mimimi.EnvelopeConnectionResponse) {
		t.Error("the answer is dropped in its epoch")
	}
	commit, err := made.Commit(mls.CommitOptions{})
	if err != nil {
		t.Fatal(err)
	}
	if err := made.Merge(commit); err != nil {
		t.Fatal(err)
	}
	g.recount()
	if g.posted(mimimi.EnvelopeConnectionResponse) {
		t.Error("the answer outlives its epoch")
	}
	if !g.onlyPeer("bob") {
		t.Error("the two alone are not the two alone")
	}
	g.rec.Leaves[2] = &leafRecord{User: "mallory"}
	if g.onlyPeer("bob") {
		t.Error("a third one is overlooked")
	}
}

// TestLostAtOnce: where several groups are lost at once, one is handed to the user's other clients now and the rest at times of their own.
func TestLostAtOnce(t *testing.T) {
	c := bare(t)
	c.cfg.Spread = spreadOver
	now := c.now()
	var due []time.Time
	for i := range 20 {
		r := &sharedGroupRecord{GroupID: []byte{byte(i)}}
		if err := c.update(func(tx Tx) error { return c.bringBack(tx, r) }); err != nil {
			t.Fatal(err)
		}
		due = append(due, timeOf(r.Due))
	}
	later := due[1:]
	if due[0].After(now.Add(time.Minute)) || slices.MaxFunc(later, time.Time.Compare).Before(now.Add(spreadOver/4)) || slices.MaxFunc(later, time.Time.Compare).After(now.Add(spreadOver+time.Minute)) {
		t.Errorf("they are due at %v", due)
	}
}

// TestPauses: what a hub can bring about comes later each time, and is not put off for ever.
func TestPauses(t *testing.T) {
	for _, x := range []struct {
		n, burst    int
		first, most time.Duration
		want        time.Duration
	}{
		{0, 4, time.Minute, time.Hour, 0}, {3, 4, time.Minute, time.Hour, 0}, {4, 4, time.Minute, time.Hour, time.Minute}, {7, 4, time.Minute, time.Hour, 8 * time.Minute},
		{10, 4, time.Minute, time.Hour, time.Hour}, {1 << 30, 4, time.Minute, time.Hour, time.Hour}, {0, 0, time.Minute, time.Hour, time.Minute},
	} {
		if got := pauseAfter(x.n, x.burst, x.first, x.most); got != x.want {
			t.Errorf("after %d times, %d of them free: %v, want %v", x.n, x.burst, got, x.want)
		}
	}
	c, now := bare(t), time.Now()
	c.cfg.Now = func() time.Time { return now }
	var last time.Duration
	for n := range 12 {
		g := &group{rec: &groupRecord{}}
		for range n {
			g.rec.Returns = append(g.rec.Returns, now.Add(-time.Hour).Unix())
		}
		c.scheduleResync(g)
		pause := time.Unix(0, g.rec.Resync.Due).Sub(now)
		if n > 1 && n < 9 && pause < last || pause > pauseMost+maxResyncPause || n == 0 && pause > maxResyncPause {
			t.Errorf("after %d entries anew in a day the next comes in %v, the one before in %v", n, pause, last)
		}
		last = pause
	}
	if got := lastDay([]int64{now.Add(-25 * time.Hour).Unix(), now.Add(-time.Hour).Unix()}, now); len(got) != 1 {
		t.Errorf("%d times of the last day, want 1", len(got))
	}
}

// TestForgetKeys: the message keys of past epochs are kept while a message of theirs can count by the log, and no longer.
func TestForgetKeys(t *testing.T) {
	made, _ := lonely(t, "a")
	epochs := mimimi.NewEpochs(0)
	g := &group{mls: made, rec: &groupRecord{}}
	for i := range 20 { // more than one a second
		commit, err := made.Commit(mls.CommitOptions{})
		if err != nil {
			t.Fatal(err)
		}
		if err := made.Merge(commit); err != nil {
			t.Fatal(err)
		}
		epochs.Commit(uint64(i+1), 100+int64(i), false)
	}
	g.rec.Epochs = epochs.Records()
	before := len(made.Marshal())
	g.forgetKeys(119)
	kept := len(made.Marshal())
	if kept == 0 || kept > before {
		t.Errorf("the state has %d bytes, before %d", kept, before)
	}
	g.forgetKeys(1000)
	if last := len(made.Marshal()); last >= kept {
		t.Errorf("the state keeps %d of %d bytes when nothing late counts any more", last, kept)
	}
}
