package fanout

import (
	"crypto/sha256"
	"encoding/binary"
	"slices"
	"strings"

	"golang.org/x/crypto/cryptobyte"
	"google.golang.org/protobuf/proto"

	v1 "mimimi.example/api/mimimi/v1"
	"mimimi.example/pkg/mls"
)

// labelDelivery begins the hash that makes a delivery's id.
const labelDelivery = "MIMIMI 1.0 delivery"

// delivery is one OUTBOX message to be: for one domain, and the part-th of its entry there.
type delivery struct {
	domain string
	part   uint32
	*v1.Delivery
}

// deliveries returns what is to be delivered of the entry between two projections. An error says what is left out.
func (g *group) deliveries(e *v1.GroupEntry, next *group) ([]*delivery, error) {
	if !next.counts() {
		return nil, nil
	}
	d := &v1.Delivery{GroupId: e.GetGroupId(), Sequence: next.sequence, Previous: g.counted, Accepted: seconds(e)}
	switch entry := e.GetEntry().(type) {
	case *v1.GroupEntry_Commit:
		c := entry.Commit
		d.Kind, d.Message, d.Epoch = v1.Delivery_KIND_COMMIT, c.GetMessage(), c.GetEpoch()
		welcomes, err := welcomes(d, next, c)
		d.EpochSenderKey, d.ExternalPub = c.GetEpochSenderKey(), c.GetExternalPub()
		return append(toAll(d, append(slices.Clone(g.roster), joiners(g.roster, next.roster, c)...)), welcomes...), err
	case *v1.GroupEntry_Proposal:
		d.Kind, d.Message, d.Epoch = v1.Delivery_KIND_PROPOSAL, entry.Proposal.GetMessage(), entry.Proposal.GetEpoch()
	case *v1.GroupEntry_Application:
		d.Kind, d.Message, d.Epoch = v1.Delivery_KIND_MESSAGE, entry.Application.GetMessage(), entry.Application.GetEpoch()
	default:
		return nil, nil // a checkpoint may name itself as the last that counts; it is for nobody
	}
	return toAll(d, g.roster), nil
}

// toAll splits recipients by domain, and each domain's into parts of maxRecipients, in the order in which they are given.
func toAll(d *v1.Delivery, recipients []recipient) []*delivery {
	byDomain := make(map[string][]*v1.Recipient)
	var domains []string
	for _, r := range recipients {
		if byDomain[r.domain] == nil {
			domains = append(domains, r.domain)
		}
		byDomain[r.domain] = append(byDomain[r.domain], &v1.Recipient{ClientPseudonym: r.pseudonym, EncryptedQueueId: r.queue})
	}
	slices.Sort(domains)
	var out []*delivery
	for _, domain := range domains {
		part := uint32(0)
		for chunk := range slices.Chunk(byDomain[domain], maxRecipients) {
			one := proto.CloneOf(d)
			one.Recipients = chunk
			out = append(out, &delivery{domain: domain, part: part, Delivery: one})
			part++
		}
	}
	return out
}

// firstWelcome is the part number of a commit's first Welcome: far above those of the commit itself, so that ids never meet.
const firstWelcome = 1 << 16

// welcomes returns one delivery for each newcomer, with its own entry of the Welcome only. It leaves out those that have none, and says so. common is
// what all deliveries of the commit have.
func welcomes(common *v1.Delivery, next *group, c *v1.HandshakeEntry) ([]*delivery, error) {
	var out []*delivery
	var failed error
	for i, n := range c.GetNewcomers() {
		welcome, err := mls.SplitWelcome(c.GetWelcome(), n.GetKeyPackageRef())
		r, ok := find(next.roster, n.GetLeaf())
		if err != nil || !ok {
			failed = errWelcome
			continue
		}
		d := proto.CloneOf(common)
		d.Kind, d.Message = v1.Delivery_KIND_WELCOME, welcome
		d.Recipients = []*v1.Recipient{{ClientPseudonym: r.pseudonym, EncryptedQueueId: r.queue}}
		out = append(out, &delivery{domain: r.domain, part: firstWelcome + uint32(i), Delivery: d})
	}
	return out, failed
}

// id is the delivery's id: SHA-256 over struct { opaque label<V>; opaque stream<V>; uint64 sequence; opaque group_id<V>; opaque domain<V>; uint32 part; }.
// It is the same whenever the entry is worked off, so a repeat is known as one; with the group in it, it differs between deployments too.
func (d *delivery) id(stream string) []byte {
	var b cryptobyte.Builder
	addOpaque(&b, labelDelivery)
	addOpaque(&b, stream)
	b.AddUint64(d.GetSequence())
	addOpaque(&b, string(d.GetGroupId()))
	addOpaque(&b, d.domain)
	b.AddUint32(d.part)
	sum := sha256.Sum256(b.BytesOrPanic())
	return sum[:]
}

// addOpaque writes opaque<V> of RFC 9420 §2.1.2. It panics at 2^30 bytes, which no message on the bus has.
func addOpaque(b *cryptobyte.Builder, v string) {
	n := uint64(len(v))
	switch {
	case n < 1<<6:
		b.AddUint8(uint8(n))
	case n < 1<<14:
		b.AddUint16(1<<14 | uint16(n))
	case n < 1<<30:
		b.AddBytes(binary.BigEndian.AppendUint32(nil, 2<<30|uint32(n)))
	default:
		panic("fanout: value too long to hash")
	}
	b.AddBytes([]byte(v))
}

// byDomain splits deliveries into one list for each domain, in order.
func byDomain(ds []*delivery) [][]*delivery {
	ds = slices.Clone(ds)
	slices.SortStableFunc(ds, func(a, b *delivery) int { return strings.Compare(a.domain, b.domain) })
	var out [][]*delivery
	for len(ds) > 0 {
		n := slices.IndexFunc(ds, func(d *delivery) bool { return d.domain != ds[0].domain })
		if n < 0 {
			n = len(ds)
		}
		out, ds = append(out, ds[:n]), ds[n:]
	}
	return out
}
