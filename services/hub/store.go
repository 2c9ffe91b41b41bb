package hub

import (
	"context"
	"crypto/sha256"
	"encoding/hex"

	"golang.org/x/crypto/cryptobyte"
	"google.golang.org/protobuf/proto"

	pb "mimimi.example/api/mimimi/v1"
	"mimimi.example/pkg/bus"
	"mimimi.example/pkg/mimimi"
	"mimimi.example/pkg/problem"
)

var (
	errNoGroup  = problem.New(problem.NotFound, "protocol §9: no such group at this hub")
	errLagging  = problem.New(problem.Unavailable, "the log could not be read to its end: try again")
	errTooLong  = problem.New(problem.Internal, "the log is too long without a checkpoint")
	errDamaged  = problem.New(problem.Internal, "the log does not hold together")
	errTooLarge = problem.New(problem.Invalid, "protocol §9: the entry is too large for the log")
)

// eventLog is what the hub needs of the bus's streams.
type eventLog interface {
	// Publish must be durable when it returns nil. With ExpectLast it must be atomic among all publishers of the subject and return problem.Stale when
	// another message is the last one; problem.Unavailable means that the outcome is not known.
	Publish(ctx context.Context, s bus.Subject, data []byte, o bus.PublishOptions) (uint64, error)
	// Last must see every message that was published with success before it was called.
	Last(ctx context.Context, s bus.Subject) (*bus.Message, error)
	// At must, like Last, be answered by the stream's leader.
	At(ctx context.Context, s bus.Subject, seq uint64) (*bus.Message, error)
	// Read may lag, but must leave out nothing between two messages that it returns.
	Read(ctx context.Context, s bus.Subject, after uint64, limit, maxBytes int) ([]*bus.Message, bool, error)
	// Hint may be lost.
	Hint(s bus.Subject)
}

// subjects names a group's subjects. *bus.Bus is the one implementation.
type subjects interface {
	GroupHandshakes(group []byte) bus.Subject
	GroupMessages(group []byte) bus.Subject
	GroupLog(group []byte) bus.Subject
}

// store is the groups' log and the cache of what it leads to. Safe for concurrent use.
type store struct {
	log   eventLog
	names subjects
	cache *cache
	// bug, if not nil, spoils a draft before it is appended. Only this package's own tests can set it, to see that replay finds what it did.
	bug func(*draft)
}

func (s *store) handshakes(id mimimi.GroupID) bus.Subject {
	return s.names.GroupHandshakes([]byte(id.Wire()))
}

func (s *store) messages(id mimimi.GroupID) bus.Subject {
	return s.names.GroupMessages([]byte(id.Wire()))
}

func (s *store) all(id mimimi.GroupID) bus.Subject { return s.names.GroupLog([]byte(id.Wire())) }

// get returns a group's state as this replica knows it, which may be behind: good enough for what the log itself decides.
func (s *store) get(ctx context.Context, id mimimi.GroupID) (*group, error) {
	if g := s.cache.get(id); g != nil {
		return g, nil
	}
	return s.current(ctx, id, nil)
}

// current returns a group's state as the stream's leader has it now. known, if not nil, is a state to roll forward from. It returns problem.NotFound if
// there is no such group.
func (s *store) current(ctx context.Context, id mimimi.GroupID, known *group) (*group, error) {
	if known == nil {
		known = s.cache.peek(id)
	}
	m, err := s.log.Last(ctx, s.handshakes(id))
	if isKind(err, problem.NotFound) {
		return nil, errNoGroup
	}
	if err != nil {
		return nil, err
	}
	if known != nil && known.last > m.Sequence {
		s.cache.drop(id) // the log is the truth: a stream restored from a backup ends earlier
		known = nil
	}
	g, err := s.upTo(ctx, id, known, m)
	if err != nil {
		return nil, err
	}
	s.cache.put(m.Subject, g)
	return g, nil
}

// upTo returns the state after m, the last .c entry, from known if that is not older than m's checkpoint.
func (s *store) upTo(ctx context.Context, id mimimi.GroupID, known *group, m *bus.Message) (*group, error) {
	e, err := decode(id, m)
	if err != nil {
		return nil, err
	}
	if known != nil && known.last == m.Sequence {
		return known, nil
	}
	if known == nil || known.last < e.Checkpoint {
		if known, err = s.checkpoint(ctx, id, m, e); err != nil {
			return nil, err
		}
	}
	return s.roll(ctx, known, m)
}

// checkpoint returns the state at the checkpoint that m names, or that it is.
func (s *store) checkpoint(ctx context.Context, id mimimi.GroupID, m *bus.Message, e *pb.GroupEntry) (*group, error) {
	if kindOf(e) != kindCheckpoint {
		return s.checkpointAt(ctx, id, e.Checkpoint)
	}
	g, err := fromCheckpoint(e, m.Sequence)
	if err != nil {
		return nil, errDamaged
	}
	return g, nil
}

// checkpointAt returns the state at the checkpoint with a sequence.
func (s *store) checkpointAt(ctx context.Context, id mimimi.GroupID, sequence uint64) (*group, error) {
	m, e, err := s.entryAt(ctx, id, sequence)
	if isKind(err, problem.NotFound) {
		return nil, errDamaged
	}
	if err != nil {
		return nil, err
	}
	g, err := fromCheckpoint(e, m.Sequence)
	if err != nil {
		return nil, errDamaged
	}
	return g, nil
}

// entryAt reads one entry of a group. It returns problem.NotFound if there is none of this group with that sequence.
func (s *store) entryAt(ctx context.Context, id mimimi.GroupID, sequence uint64) (*bus.Message, *pb.GroupEntry, error) {
	m, err := s.log.At(ctx, s.all(id), sequence)
	if err != nil {
		return nil, nil, err
	}
	e, err := decode(id, m)
	return m, e, err
}

// roll applies what stands after g up to and including m. It reads in pages, and asks the leader for what a lagging replica of the stream does not have
// yet.
func (s *store) roll(ctx context.Context, g *group, m *bus.Message) (*group, error) {
	for rolled := 0; g.last < m.Sequence; {
		page, _, err := s.log.Read(ctx, s.handshakes(g.id), g.last, pageEntries, pageBytes)
		if err != nil {
			return nil, err
		}
		if len(page) == 0 {
			if page, err = s.chain(ctx, g, m); err != nil {
				return nil, err
			}
		}
		if rolled += len(page); rolled > maxRoll {
			return nil, errTooLong
		}
		for _, m := range page {
			if g, err = applyMessage(g, m); err != nil {
				return nil, err
			}
		}
	}
	return g, nil
}

// chain walks back from m, entry by entry, to the one after g.
func (s *store) chain(ctx context.Context, g *group, m *bus.Message) ([]*bus.Message, error) {
	var found []*bus.Message
	for len(found) < maxRoll {
		e, err := decode(g.id, m)
		if err != nil {
			return nil, err
		}
		found = append(found, m)
		if e.Handshake == g.last {
			reverse(found)
			return found, nil
		}
		if e.Handshake < g.last {
			return nil, errDamaged
		}
		if m, err = s.log.At(ctx, s.handshakes(g.id), e.Handshake); err != nil {
			return nil, err
		}
	}
	return nil, errTooLong
}

func reverse(ms []*bus.Message) {
	for i, j := 0, len(ms)-1; i < j; i, j = i+1, j-1 {
		ms[i], ms[j] = ms[j], ms[i]
	}
}

func applyMessage(g *group, m *bus.Message) (*group, error) {
	e, err := decode(g.id, m)
	if err != nil {
		return nil, err
	}
	next, err := g.apply(e, m.Sequence)
	if err != nil {
		return nil, problem.Wrap(problem.Internal, errDamaged.Sentence, err)
	}
	return next, nil
}

// decode reads an entry and makes sure that it is of the group: sequences come from requests too.
func decode(id mimimi.GroupID, m *bus.Message) (*pb.GroupEntry, error) {
	e := new(pb.GroupEntry)
	if err := proto.Unmarshal(m.Data, e); err != nil {
		return nil, errDamaged
	}
	if string(e.GroupId) != id.Wire() {
		return nil, problem.New(problem.NotFound, "protocol §9: this group has no such entry")
	}
	return e, nil
}

// append publishes a draft after the entry that it follows: the one CAS that decides whether it exists. Nothing was written before it.
//
// A crash before the publish leaves nothing; one after it leaves the accepted entry, which every replica finds by Last, and whose request id answers
// the retry. The hint after it may be lost: caches then learn of the entry from their own next CAS.
//
// There is no message id: within the server's duplicate window the answer would be success for an entry of an earlier attempt, with other content.
//
// Errors: problem.Stale if another entry came first; problem.Unavailable if the entry may or may not exist; problem.Invalid if it is too large.
func (s *store) append(ctx context.Context, d *draft) (*group, error) {
	if s.bug != nil {
		s.bug(d)
	}
	data, err := proto.Marshal(d.entry)
	if err != nil || len(data) > maxEntry {
		return nil, errTooLarge
	}
	subject, last := s.handshakes(d.next.id), d.entry.Handshake
	sequence, err := s.log.Publish(ctx, subject, data, bus.PublishOptions{ExpectLast: &last})
	if err != nil {
		return nil, err
	}
	g := d.next.placed(d.entry, sequence)
	s.cache.replace(g)
	s.log.Hint(subject)
	return g, nil
}

// appendMessage publishes an application message and returns its sequence and acceptance time: the log decides later whether it counts. The id makes a retry
// within the server's duplicate window the same entry; a later one stands in the log twice, and clients drop the second by its key.
//
// A crash before the publish leaves nothing; one after it leaves the message, which fanout delivers.
func (s *store) appendMessage(ctx context.Context, id mimimi.GroupID, e *pb.GroupEntry) (sequence uint64, millis int64, err error) {
	data, err := proto.Marshal(e)
	if err != nil {
		return 0, 0, errTooLarge
	}
	var again bool
	sequence, err = s.log.Publish(ctx, s.messages(id), data, bus.PublishOptions{ID: messageID(id, e.RequestId), Duplicate: &again})
	if err != nil || !again {
		return sequence, e.AcceptedMs, err
	}
	_, first, err := s.entryAt(ctx, id, sequence)
	if err != nil {
		return 0, 0, err
	}
	return sequence, first.AcceptedMs, nil
}

// messageID names a request to the server, which learns nothing else from it. Request ids are random, so the hash cannot be searched.
func messageID(id mimimi.GroupID, requestID []byte) string {
	var b cryptobyte.Builder
	for _, part := range [][]byte{[]byte("MIMIMI 1.0 hub message id"), []byte(id.Wire()), requestID} {
		b.AddUint16LengthPrefixed(func(b *cryptobyte.Builder) { b.AddBytes(part) })
	}
	sum := sha256.Sum256(b.BytesOrPanic())
	return hex.EncodeToString(sum[:])
}

// isKind says whether err is a problem of a kind.
func isKind(err error, k problem.Kind) bool {
	return err != nil && problem.KindOf(err) == k
}
