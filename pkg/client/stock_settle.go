package client

import (
	"bytes"
	"slices"

	mimimiv1 "mimimi.example/api/mimimi/v1"
	"mimimi.example/pkg/mimimi"
)

// packageRecord is an own KeyPackage with its private halves. It is stored before the KeyPackage is uploaded, and erased when a one-time one is used, when
// the store says that nobody ever got it, or when no Welcome for it can come any more.
type packageRecord struct {
	Package    []byte `json:"package"`
	Secrets    []byte `json:"secrets"`
	LinkKey    []byte `json:"link_key"`
	Pseudonym  string `json:"pseudonym"` // user pseudonym: the name of the set
	Client     string `json:"client"`    // client pseudonym: the own place in it
	LastResort bool   `json:"last_resort,omitempty"`
	Basis      []byte `json:"basis"` // what it was made under (mimimi.KeyPackageConfig.Basis)
	Made       int64  `json:"made"`
	Due        int64  `json:"due"`             // when its set is to be replaced
	Queue      int    `json:"queue,omitempty"` // accountRecord.QueueNumber when it was made
	// Revision is that of the set which it completes, as listed; 0 if it starts one.
	Revision uint64 `json:"revision,omitempty"`
	// Tried says that an upload may have reached the store; Uploaded that it did, or that it is given up. The keys are kept either way: somebody may
	// have claimed the set.
	Tried    bool `json:"tried,omitempty"`
	Uploaded bool `json:"uploaded,omitempty"`
	// Settled says that the set is gone from the store, which does not know that nobody has it: nothing more is asked about it.
	Settled bool `json:"settled,omitempty"`

	ref []byte // its key in the bucket
}

// changePackages lets f change every own KeyPackage: keep false erases it.
func changePackages(tx Tx, f func(r *packageRecord) (keep, changed bool)) error {
	var changed, erased []*packageRecord
	err := each(tx, bucketPackages, func(k []byte, r *packageRecord) error {
		r.ref = bytes.Clone(k)
		switch keep, change := f(r); {
		case !keep:
			erased = append(erased, r)
		case change:
			changed = append(changed, r)
		}
		return nil
	})
	if err != nil {
		return err
	}
	for _, r := range changed {
		if err := write(tx, bucketPackages, r.ref, r); err != nil {
			return err
		}
	}
	for _, r := range erased {
		if err := tx.Delete(bucketPackages, r.ref); err != nil {
			return err
		}
	}
	return nil
}

// settled is what a list of the sets, held against the own KeyPackages, leaves to do.
type settled struct {
	withdraw    []string               // sets of no more use, and some that are gone and of which it is not known where
	completions []*packageRecord       // made, to be uploaded into sets as they were listed
	starts      []*packageRecord       // made, to be uploaded as new sets
	lacking     []*mimimiv1.SetSummary // sets that need a KeyPackage of this client
	oneTime     int                    // one-time sets at the store that stay
	fresh       int                    // last-resort sets that stay, were never used and are not due
	used        int                    // last-resort sets that were
}

// missing is how many sets of a kind are to be started now.
func (s *settled) missing(c *Client, lastResort bool) int {
	have, want := s.oneTime, c.cfg.Stock.OneTime
	if lastResort {
		have, want = s.fresh, c.cfg.Stock.LastResort
	}
	for _, r := range s.starts {
		if r.LastResort == lastResort {
			have++
		}
	}
	share := 4
	if c.fillsFirst() {
		share = 2
	}
	if have*share > want && (!lastResort || s.used == 0 || share != 2) {
		return 0
	}
	return want - have
}

// settlement is the work on one list.
type settlement struct {
	settled
	listed map[string]*mimimiv1.SetSummary
	basis  []byte
	now    int64
	size   int  // of a complete set
	fewer  bool // the user has fewer clients than when the stock was looked at last
	leads  bool
	spare  bool            // a last-resort set is there that is whole, was not used, and is not due
	own    map[string]bool // listed sets that hold a KeyPackage of this client, or will
	gone   map[string]bool // in withdraw
	due    map[string]bool // last-resort sets that another is to replace
}

// settle holds the list of the sets against the own KeyPackages, and stores what follows for these.
func (c *Client) settle(listed map[string]*mimimiv1.SetSummary, cfg *mimimi.KeyPackageConfig) (*settled, error) {
	basis := cfg.Basis(c.account.writeKey.Public())
	var s *settlement
	err := c.update(func(tx Tx) error {
		stock, err := readStock(tx)
		if err != nil {
			return err
		}
		s = &settlement{
			listed: listed, basis: basis[:], now: c.now().Unix(), size: c.setSize(), fewer: stock.Clients > c.setSize(), leads: c.fillsFirst(),
			own: make(map[string]bool), gone: make(map[string]bool), due: make(map[string]bool),
		}
		err = each(tx, bucketPackages, func(_ []byte, r *packageRecord) error {
			at := listed[r.Pseudonym]
			s.spare = s.spare || r.in(at) && at.LastResort && at.Uses == 0 && len(at.ClientPseudonyms) >= s.size && !s.expired(r) && s.now < r.Due
			return nil
		})
		if err != nil {
			return err
		}
		return changePackages(tx, s.settle)
	})
	if err != nil {
		return nil, err
	}
	s.review()
	return &s.settled, nil
}

// in says whether the KeyPackage is in the set as it was listed; nil is no set.
func (r *packageRecord) in(at *mimimiv1.SetSummary) bool {
	return at != nil && slices.Contains(at.ClientPseudonyms, r.Client)
}

// expired says whether a KeyPackage is of no more use to anybody: made under what was replaced since, or so long ago that its lifetime nears its end.
func (s *settlement) expired(r *packageRecord) bool {
	return !bytes.Equal(r.Basis, s.basis) || s.now >= r.Made+int64((replaceAfter+spreadOver).Seconds())
}

// stale says whether the set of a KeyPackage that is listed is to go. A last-resort set that was used or is due waits for another one to be there.
func (s *settlement) stale(r *packageRecord, at *mimimiv1.SetSummary) bool {
	switch {
	case s.expired(r), s.fewer && len(at.ClientPseudonyms) > s.size: // one of them is of a client that is gone
		return true
	case at.LastResort:
		return s.spare && (at.Uses > 0 || s.now >= r.Due)
	}
	return s.now >= r.Due
}

// settle decides about one own KeyPackage.
func (s *settlement) settle(r *packageRecord) (keep, changed bool) {
	at := s.listed[r.Pseudonym]
	old := s.now >= r.Made+int64(uploadFor.Seconds())
	switch {
	case s.now >= r.Made+int64(keyPackageFor.Seconds()):
		return false, true
	case r.in(at):
		s.own[r.Pseudonym] = true
		s.due[r.Pseudonym] = s.now >= r.Due
		if s.stale(r, at) {
			s.drop(r.Pseudonym)
		}
		changed, r.Uploaded = !r.Uploaded, true
		return true, changed
	case !r.Uploaded && (old || s.expired(r) || at == nil && r.Revision != 0):
		// It is of no use any more. If an upload may have reached the store, somebody may have it nevertheless.
		r.Uploaded = true
		return r.Tried, true
	case !r.Uploaded && at != nil:
		s.own[r.Pseudonym] = true
		changed, r.Revision = r.Revision != at.Revision, at.Revision
		s.completions = append(s.completions, r)
		return true, changed
	case !r.Uploaded:
		s.starts = append(s.starts, r)
	case at == nil && !r.Settled && s.now >= r.Made+int64(settleAfter.Seconds()):
		s.drop(r.Pseudonym)
	}
	return true, false
}

func (s *settlement) drop(pseudonym string) {
	if !s.gone[pseudonym] {
		s.gone[pseudonym] = true
		s.withdraw = append(s.withdraw, pseudonym)
	}
}

// review decides about the listed sets: those that lack this client are completed, unless they cannot be of this user's present clients alone; what
// stays is counted.
func (s *settlement) review() {
	for pseudonym, at := range s.listed {
		if !s.own[pseudonym] {
			switch n := len(at.ClientPseudonyms); {
			case s.size == 1, s.fewer && (n >= s.size || s.leads):
				s.drop(pseudonym)
			case n < maxSetClients && !s.gone[pseudonym]:
				s.lacking = append(s.lacking, at)
			}
		}
		switch {
		case s.gone[pseudonym]:
		case !at.LastResort:
			s.oneTime++
		case at.Uses > 0:
			s.used++
		case !s.due[pseudonym]:
			s.fresh++
		}
	}
}
