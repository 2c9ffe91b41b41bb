package kpstore

import (
	"context"
	"math/rand/v2"
	"time"

	"google.golang.org/protobuf/proto"

	v1 "mimimi.example/api/mimimi/v1"
	"mimimi.example/pkg/bus"
	"mimimi.example/pkg/problem"
)

var (
	errContended  = problem.New(problem.Unavailable, "too many requests change the same record at once: try again")
	errUnreadable = problem.New(problem.Internal, "a stored record cannot be read")
)

// log is what the store needs of the bus. Publish must be durable on return; with ExpectLast it succeeds only if the subject's last message is that
// one, and says problem.Stale if not; any other error leaves open whether it happened. Last and Count tell what the leader has. Remove says true to one
// caller for one message. Read may lag behind. Purge with upTo 0 deletes all. Bury notes in DEAD that a message cannot be read, and leaves it.
type log interface {
	Publish(ctx context.Context, s bus.Subject, data []byte, o bus.PublishOptions) (uint64, error)
	Last(ctx context.Context, s bus.Subject) (*bus.Message, error)
	Read(ctx context.Context, s bus.Subject, after uint64, limit, maxBytes int) ([]*bus.Message, bool, error)
	Count(ctx context.Context, s bus.Subject) (int, error)
	Remove(ctx context.Context, s bus.Subject, sequence uint64) (bool, error)
	Purge(ctx context.Context, s bus.Subject, upTo uint64) error
	Bury(ctx context.Context, s bus.Subject, m *bus.Message, cause error) error
}

// subjects makes the store's subjects; *bus.Bus does.
type subjects interface {
	KeyPackageSet(owner, set []byte) bus.Subject
	KeyPackageSets(owner []byte) bus.Subject
	KeyPackageAlias(tokenHash []byte) bus.Subject
	KeyPackageClaim(requestID []byte) bus.Subject
	KeyPackageServed(pseudonym []byte) bus.Subject
	Outbox(domain string) bus.Subject
}

// store keeps the records of kpstore_events.proto. Each subject holds one message, the record's present state, and its sequence is the revision
// that compare-and-swap names; revision 0 means that there is none.
type store struct {
	log      log
	subjects subjects
	now      func() time.Time
	domain   string // its own: the only one whose outbox it writes to
	metrics  *metrics
	graves   *graves
}

func (s *store) setSubject(owner []byte, user string) bus.Subject {
	return s.subjects.KeyPackageSet(owner, derive(labelSet, []byte(user)))
}
func (s *store) aliasSubject(tokenHash []byte) bus.Subject {
	return s.subjects.KeyPackageAlias(derive(labelAlias, tokenHash))
}
func (s *store) ownerSubject(owner []byte) bus.Subject {
	return s.subjects.KeyPackageAlias(derive(labelOwnerRecord, owner))
}

// issuerSubject and noticeSubject share the aliases' family: their tokens are hashes under other labels.
func (s *store) issuerSubject(owner []byte, issuer string) bus.Subject {
	return s.subjects.KeyPackageAlias(derive(labelIssuer, owner, []byte(issuer)))
}
func (s *store) noticeSubject(owner []byte) bus.Subject {
	return s.subjects.KeyPackageAlias(derive(labelNotice, owner))
}
func (s *store) claimSubject(key []byte) bus.Subject { return s.subjects.KeyPackageClaim(key) }
func (s *store) servedSubject(user string) bus.Subject {
	return s.subjects.KeyPackageServed(derive(labelServed, []byte(user)))
}

// get reads a subject's record into m and returns its revision, 0 if there is none.
func (s *store) get(ctx context.Context, subject bus.Subject, m proto.Message) (uint64, error) {
	msg, err := s.log.Last(ctx, subject)
	if err != nil {
		if problem.KindOf(err) == problem.NotFound {
			return 0, nil
		}
		return 0, err
	}
	if err := proto.Unmarshal(msg.Data, m); err != nil {
		return 0, errUnreadable
	}
	return msg.Sequence, nil
}

// put writes a record over the revision expect. It returns problem.Stale if there is another one.
func (s *store) put(ctx context.Context, subject bus.Subject, m proto.Message, expect uint64, ttl time.Duration) (uint64, error) {
	data, err := proto.Marshal(m)
	if err != nil {
		return 0, err
	}
	return s.log.Publish(ctx, subject, data, bus.PublishOptions{ExpectLast: &expect, TTL: ttl})
}

// putSet writes a set; it goes by itself when it can no longer be used.
func (s *store) putSet(ctx context.Context, owner []byte, set *v1.KeyPackageSet, expect uint64) (uint64, error) {
	ttl := max(time.Unix(set.GetNotAfter(), 0).Sub(s.now()), time.Second)
	return s.put(ctx, s.setSubject(owner, set.GetUserPseudonym()), set, expect, ttl)
}

// removeSet makes sure that a set is gone, whatever its revision. It must have been remembered as served: a set that were completed meanwhile goes
// with it.
func (s *store) removeSet(ctx context.Context, owner []byte, user string) error {
	subject := s.setSubject(owner, user)
	for range maxConflicts {
		msg, err := s.log.Last(ctx, subject)
		if err != nil {
			if problem.KindOf(err) == problem.NotFound {
				return nil
			}
			return err
		}
		removed, err := s.log.Remove(ctx, subject, msg.Sequence)
		if err != nil || removed {
			return err
		}
	}
	return errContended
}

// index is what was read of one.
type index struct {
	sets  []*keySet // the usable ones, in the order of their revisions
	read  int       // how many were read, usable or not
	whole bool      // there are no more
}

// index reads an index page by page, and stops after the page that makes enough true, if enough is not nil. A set that cannot be read is set aside.
func (s *store) index(ctx context.Context, owner []byte, enough func([]*keySet) bool) (*index, error) {
	in := new(index)
	now, after := s.now(), uint64(0)
	for range maxPages {
		msgs, more, err := s.log.Read(ctx, s.subjects.KeyPackageSets(owner), after, pageSets, pageBytes)
		if err != nil {
			return nil, err
		}
		for _, m := range msgs {
			after = m.Sequence
			set := &keySet{KeyPackageSet: new(v1.KeyPackageSet), sequence: m.Sequence, message: m}
			if proto.Unmarshal(m.Data, set.KeyPackageSet) != nil {
				s.setAside(ctx, owner, m)
			} else if set.usable(now) {
				in.sets = append(in.sets, set)
			}
		}
		in.read += len(msgs)
		if !more || len(msgs) == 0 {
			in.whole = true
			return in, nil
		}
		if enough != nil && enough(in.sets) {
			return in, nil
		}
	}
	in.whole = true
	return in, nil
}

// behind says whether an index holds more than was read of it: a replica answered that has not caught up.
func (s *store) behind(ctx context.Context, owner []byte, in *index) (bool, error) {
	n, err := s.log.Count(ctx, s.subjects.KeyPackageSets(owner))
	return n > in.read, err
}

// ownerRecord reads the record of an index, an empty one if there is none.
func (s *store) ownerRecord(ctx context.Context, owner []byte) (*v1.KeyPackageOwner, uint64, error) {
	rec := new(v1.KeyPackageOwner)
	rev, err := s.get(ctx, s.ownerSubject(owner), rec)
	return rec, rev, err
}

// updateOwner changes the record of an index by compare-and-swap, as often as it takes. change returns false if nothing is to be written.
func (s *store) updateOwner(ctx context.Context, owner []byte, change func(*v1.KeyPackageOwner) (bool, error)) error {
	return s.retry(ctx, func() error {
		rec, rev, err := s.ownerRecord(ctx, owner)
		if err != nil {
			return err
		}
		if write, err := change(rec); err != nil || !write {
			return err
		}
		_, err = s.put(ctx, s.ownerSubject(owner), rec, rev, indexFor)
		return err
	})
}

// alias reads the record of a token hash; revision 0 if it was never registered.
func (s *store) alias(ctx context.Context, tokenHash []byte) (*v1.KeyPackageAlias, uint64, error) {
	rec := new(v1.KeyPackageAlias)
	rev, err := s.get(ctx, s.aliasSubject(tokenHash), rec)
	return rec, rev, err
}

// retry calls f until it returns something else than problem.Stale, with a random wait in between that doubles.
func (s *store) retry(ctx context.Context, f func() error) error {
	wait := minBackoff
	for range maxConflicts {
		err := f()
		if problem.KindOf(err) != problem.Stale {
			return err
		}
		if err := pause(ctx, wait); err != nil {
			return err
		}
		wait = min(2*wait, maxBackoff)
	}
	return errContended
}

// pause waits for half to all of d.
func pause(ctx context.Context, d time.Duration) error {
	t := time.NewTimer(d/2 + rand.N(d/2+1))
	defer t.Stop()
	select {
	case <-t.C:
		return nil
	case <-ctx.Done():
		return problem.Wrap(problem.Unavailable, "the request was given up", context.Cause(ctx))
	}
}
