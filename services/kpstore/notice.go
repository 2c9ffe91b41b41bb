package kpstore

import (
	"context"
	"crypto/rand"
	"encoding/hex"

	"google.golang.org/protobuf/proto"

	v1 "mimimi.example/api/mimimi/v1"
	"mimimi.example/pkg/bus"
	"mimimi.example/pkg/mimimi"
	"mimimi.example/pkg/mls"
	"mimimi.example/pkg/problem"
)

// watchStock counts what a claim left of one-time sets, and has the owner told if that is little. What fails here is counted and not the claimer's
// affair: its answer stands, and the owner's clients look for themselves from time to time. A claim that was answered before says nothing new.
func (c *claimant) watchStock(ctx context.Context, rec *v1.KeyPackageClaim) {
	left, ok := c.left(ctx, rec.GetUserPseudonym())
	if !ok {
		return
	}
	c.metrics.stock.Record(ctx, int64(left))
	if left >= fewSets && uint32(left)*4 > c.stocked {
		return
	}
	sent, err := c.tell(ctx, c.owner, rec.GetKeyPackages())
	c.metrics.noticed(ctx, sent, err)
}

// left is how many one-time sets are left besides the one that was just handed out.
func (c *claimant) left(ctx context.Context, served string) (int, bool) {
	if c.choice == nil {
		return 0, false
	}
	others := func(s *keySet) bool { return !c.tried[s.GetUserPseudonym()] && s.GetUserPseudonym() != served }
	left := oneTimeOf(c.choice.sets, others)
	if c.choice.whole || left >= fewSets && uint32(left)*4 > c.stocked {
		return left, true
	}
	in, err := c.index(ctx, c.owner, nil) // larger than one read, and what was read of it holds few
	if err != nil {
		return 0, false
	}
	return oneTimeOf(in.sets, others), true
}

// tell lets the owner's clients know that the stock is low, at most once in noticeEvery: by a delivery to their queues that holds nothing but the client
// pseudonyms and sealed queue IDs of the set that was just handed out. Nothing in it comes from the claim. Order of the writes, and what a crash after
// each means:
//
//  1. The index's notice is recorded. Conflict: somebody else does the rest. Crash: the owner is not told for an hour.
//  2. The delivery is appended to the own domain's outbox.
func (s *store) tell(ctx context.Context, owner []byte, keyPackages [][]byte) (sent bool, err error) {
	recipients := recipientsOf(keyPackages)
	if len(recipients) == 0 {
		return false, errUnreadable
	}
	rec := new(v1.KeyPackageNotice)
	rev, err := s.get(ctx, s.noticeSubject(owner), rec)
	if err != nil {
		return false, err
	}
	now := s.now().Unix()
	if ago := now - rec.GetSent(); rev != 0 && ago >= 0 && ago < int64(noticeEvery.Seconds()) {
		return false, nil
	}
	_, err = s.put(ctx, s.noticeSubject(owner), &v1.KeyPackageNotice{Sent: now}, rev, 2*noticeEvery)
	if err != nil {
		if problem.KindOf(err) == problem.Stale {
			return false, nil
		}
		return false, err
	}
	id := make([]byte, 32)
	_, _ = rand.Read(id) // never fails
	data, err := proto.Marshal(&v1.OutboxEntry{Domain: s.domain, Delivery: &v1.OutboundDelivery{
		Id: id, Delivery: &v1.Delivery{Kind: v1.Delivery_KIND_LOW_STOCK, Recipients: recipients},
	}})
	if err != nil {
		return false, err
	}
	_, err = s.log.Publish(ctx, s.subjects.Outbox(s.domain), data, bus.PublishOptions{ID: hex.EncodeToString(id)})
	return err == nil, err
}

// recipientsOf are the clients that made a set.
func recipientsOf(keyPackages [][]byte) (all []*v1.Recipient) {
	for _, raw := range keyPackages {
		kp, err := mls.ParseKeyPackage(raw)
		if err != nil {
			continue
		}
		leaf, err := mimimi.ParseLeaf(kp.Leaf())
		if err != nil {
			continue
		}
		all = append(all, &v1.Recipient{ClientPseudonym: leaf.Credential.ClientPseudonym.Wire(), EncryptedQueueId: leaf.EncryptedQueueID})
	}
	return all
}
