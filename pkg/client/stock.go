package client

import (
	"context"
	"fmt"
	"slices"
	"time"

	mimimiv1 "mimimi.example/api/mimimi/v1"
	"mimimi.example/pkg/mimimi"
)

// The stock of KeyPackage sets at the store is kept by all clients of a user, each for itself, by the four steps of docs/protocol.md §8: list the sets;
// find those that lack this client; complete them; start new ones. Nothing is agreed upon beforehand: a set is changed as it was listed or not at all, and
// whoever comes second looks again.

// What the adder is told where a set is used that others may use, too.
const (
	lastResortSentence    = "a member was added with a last-resort KeyPackage, which is used more than once: whoever serves two such groups can tell that they have this member in common"
	ownLastResortSentence = "no one-time KeyPackage was left for this group: whoever serves two groups that were entered like this can tell that they have you in common"
)

// stockRecord is what is known of the sets at the store.
type stockRecord struct {
	Checked int64 `json:"checked"`           // when they were listed last
	Used    int   `json:"used"`              // own sets seen in use since
	Due     bool  `json:"due,omitempty"`     // to be looked at with the next Sync
	Clients int   `json:"clients,omitempty"` // how many made a complete set then
}

func readStock(tx Tx) (*stockRecord, error) {
	s, found, err := read[stockRecord](tx, bucketMeta, keyStock)
	if !found && err == nil {
		s = new(stockRecord)
	}
	return s, err
}

// stockTrial stands for a user with several clients.
type stockTrial struct {
	clients int
	leads   bool
}

// setSize is how many KeyPackages make a complete set.
func (c *Client) setSize() int {
	if c.trial != nil {
		return c.trial.clients
	}
	return min(c.clientCount(), maxSetClients)
}

// fillsFirst says whether this client starts new sets as soon as half of them is gone. The others wait until a quarter is left, so that usually one does.
func (c *Client) fillsFirst() bool {
	if c.trial != nil {
		return c.trial.leads
	}
	return c.leads()
}

// dueStock makes the next Sync look at the stock. What changes a connection key, certificate, queue or write key calls it in the same transaction: the sets
// made before are then withdrawn and replaced.
func dueStock(tx Tx) error {
	s, err := readStock(tx)
	if err != nil {
		return err
	}
	s.Due = true
	return write(tx, bucketMeta, keyStock, s)
}

// lowStock takes note of the store's word that few sets are left.
func (c *Client) lowStock(position uint64) error {
	return c.update(func(tx Tx) error {
		if err := dueStock(tx); err != nil {
			return err
		}
		return setPosition(tx, position)
	})
}

// withdrawStale withdraws, at once, every set with a KeyPackage that this client made under another connection key, certificate, queue, queue key or write
// key, and replaces them.
func (c *Client) withdrawStale(ctx context.Context) error { return c.fillStock(ctx) }

// refillStock looks at the stock when there is a reason: the store or another part of the client said so, half of it is known to be used, the number of the
// user's clients changed, or an hour has passed. Otherwise it asks nobody.
func (c *Client) refillStock(ctx context.Context) error {
	if c.account.rec.CutOff {
		return nil // the sets are the other clients'
	}
	var s *stockRecord
	err := c.view(func(tx Tx) (err error) {
		s, err = readStock(tx)
		return err
	})
	if err != nil {
		return err
	}
	ago := c.now().Sub(time.Unix(s.Checked, 0))
	if !s.Due && s.Used*2 <= c.cfg.Stock.OneTime && s.Clients == c.setSize() && ago >= 0 && ago < stockEvery {
		return nil
	}
	return c.fillStock(ctx)
}

// fillStock does the four steps, and anew where another client was faster.
func (c *Client) fillStock(ctx context.Context) error {
	for round := range maxStockRounds {
		lost, err := c.fillOnce(ctx, round == maxStockRounds-1)
		if err != nil {
			return err
		}
		if !lost {
			break
		}
	}
	return c.update(func(tx Tx) error {
		return write(tx, bucketMeta, keyStock, stockRecord{Checked: c.now().Unix(), Clients: c.setSize()})
	})
}

// fillOnce lists the sets, withdraws what is of no more use, completes what lacks this client and starts what is missing. It reports whether another client
// was faster somewhere. Every KeyPackage is stored with its private halves before it is uploaded, and marked before and after: a crash anywhere is made good
// by the next list.
//
// New sets are started in the last round only, or when no race was lost: a list that follows at once may not show them yet.
func (c *Client) fillOnce(ctx context.Context, last bool) (lost bool, err error) {
	cfg, err := c.packageConfig(ctx)
	if err != nil {
		return false, err
	}
	listed, err := c.listSets(ctx)
	if err != nil {
		return false, err
	}
	s, err := c.settle(listed, cfg)
	if err != nil {
		return false, err
	}
	if err := c.withdraw(ctx, s.withdraw); err != nil {
		return false, err
	}
	made, err := c.makePackages(cfg, s.lacking, 0, false)
	if err != nil {
		return false, err
	}
	if lost, err = c.uploadCompletions(ctx, append(s.completions, made...)); err != nil || lost && !last {
		return lost, err
	}
	room := maxSets - len(listed)
	for _, kind := range []struct {
		lastResort bool
		missing    int
	}{{false, s.missing(c, false)}, {true, s.missing(c, true)}} {
		n := max(0, min(kind.missing, room))
		room -= n
		made, err := c.makePackages(cfg, nil, n, kind.lastResort)
		if err != nil {
			return lost, err
		}
		s.starts = append(s.starts, made...)
	}
	return lost, c.uploadStarts(ctx, s.starts)
}

// packageConfig is what KeyPackages are made of now.
func (c *Client) packageConfig(ctx context.Context) (*mimimi.KeyPackageConfig, error) {
	doc, err := c.document(ctx, c.account.user.Domain())
	if err != nil {
		return nil, err
	}
	if len(doc.QueueKeys) == 0 {
		return nil, fmt.Errorf("%w: the key document names no queue key", ErrIdentity)
	}
	a := c.account
	return &mimimi.KeyPackageConfig{
		ConnectionKey: a.connectionKey, CertificateKey: a.certKey, Certificate: a.certificate,
		QueueID: a.queueID, QueueKey: doc.QueueKeys[len(doc.QueueKeys)-1], Now: c.now(),
	}, nil
}

// uploadCompletions uploads what completes sets, and reports whether some changed since they were listed. Whether anything of such a batch was stored
// shows in the next list; the keys are kept until then.
func (c *Client) uploadCompletions(ctx context.Context, records []*packageRecord) (lost bool, err error) {
	for batch := range slices.Chunk(records, maxUpload) {
		if err := c.mark(batch, false); err != nil {
			return lost, err
		}
		err := c.upload(ctx, batch)
		switch {
		case isStale(err):
			lost = true
		case err != nil:
			return lost, err
		default:
			if err := c.mark(batch, true); err != nil {
				return lost, err
			}
		}
	}
	return lost, nil
}

// uploadStarts uploads new sets in batches. What was tried before and is not in the list goes apart: some of it may have been claimed or withdrawn
// meanwhile, and is then refused for good. Then all of it is given up, and replaced: an upload for each alone would cost a token each.
func (c *Client) uploadStarts(ctx context.Context, records []*packageRecord) error {
	var fresh, tried []*packageRecord
	for _, r := range records {
		if r.Tried {
			tried = append(tried, r)
		} else {
			fresh = append(fresh, r)
		}
	}
	for batch := range slices.Chunk(tried, maxUpload) {
		if err := c.upload(ctx, batch); err != nil && !isFinal(err) && !isStale(err) {
			return err
		}
		if err := c.mark(batch, true); err != nil {
			return err
		}
	}
	for batch := range slices.Chunk(fresh, maxUpload) {
		if err := c.mark(batch, false); err != nil {
			return err
		}
		if err := c.upload(ctx, batch); err != nil {
			return err
		}
		if err := c.mark(batch, true); err != nil {
			return err
		}
	}
	return nil
}

// withdraw takes sets out of the store, or asks what became of them. The private halves of those that nobody got are erased; of the others they are kept
// until no Welcome for them can come any more. A crash after the answer repeats the question.
func (c *Client) withdraw(ctx context.Context, pseudonyms []string) error {
	if len(pseudonyms) == 0 {
		return nil
	}
	s, err := c.kpStore(ctx, c.account.user.Domain())
	if err != nil {
		return err
	}
	for batch := range slices.Chunk(pseudonyms, maxUpload) {
		req := &mimimiv1.WithdrawRequest{WriteKey: c.account.writeKey.Public(), UserPseudonyms: batch}
		body, err := mimimiv1.WithdrawBody(req)
		if err != nil {
			return err
		}
		req.Signed = c.signedStore(opWithdraw, newRequestID(), body)
		res, err := call(ctx, s.Withdraw, req)
		if err != nil {
			return fmt.Errorf("withdraw KeyPackages: %w", err)
		}
		if err := c.withdrawn(batch, res.HandedOut); err != nil {
			return err
		}
	}
	return nil
}

// withdrawn stores what the store said of withdrawn sets.
func (c *Client) withdrawn(asked, handedOut []string) error {
	return c.update(func(tx Tx) error {
		return changePackages(tx, func(r *packageRecord) (keep, changed bool) {
			switch {
			case !slices.Contains(asked, r.Pseudonym):
				return true, false
			case slices.Contains(handedOut, r.Pseudonym):
				r.Uploaded, r.Settled = true, true
				return true, true
			}
			return false, true
		})
	})
}
