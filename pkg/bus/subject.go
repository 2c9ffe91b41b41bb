package bus

import (
	"fmt"
	"strconv"
	"strings"
)

// Subject is one concrete subject (or, for reads, a family of them) with its stream. Only the constructors below make one.
type Subject struct{ name, stream string }

// Stream is the name of the stream that holds the subject.
func (s Subject) Stream() string { return s.stream }

// family says whether s stands for several subjects: then it can be read, counted, purged and watched, but not published to.
func (s Subject) family() bool { return strings.Contains(s.name, "*") }

// matches says whether a concrete subject belongs to s.
func (s Subject) matches(concrete string) bool {
	return matchPattern(s.name, concrete)
}

// matchPattern compares token by token; "*" stands for any one.
func matchPattern(pattern, concrete string) bool {
	p, c := strings.Split(pattern, "."), strings.Split(concrete, ".")
	if len(p) != len(c) {
		return false
	}
	for i := range p {
		if p[i] != "*" && p[i] != c[i] {
			return false
		}
	}
	return true
}

func streamName(prefix string, partition int) string { return prefix + "_" + strconv.Itoa(partition) }

// partitioned makes the subject "<prefix>.<p>.<token><suffix>" in stream "<STREAM>_<p>".
func (b *Bus) partitioned(prefix, stream, token, suffix string) Subject {
	p := b.layout.partition(token)
	return Subject{name: fmt.Sprintf("%s.%d.%s%s", prefix, p, token, suffix), stream: streamName(stream, p)}
}

// GroupHandshakes is where a group's commits, proposals, checkpoints and invitations go: group.<p>.<t>.c. Publish to it with ExpectLast.
func (b *Bus) GroupHandshakes(group []byte) Subject {
	return b.partitioned("group", streamGroup, b.layout.token("group", group), ".c")
}

// GroupMessages is where a group's application messages go: group.<p>.<t>.m, in the same stream, whose sequence is the order of both.
func (b *Bus) GroupMessages(group []byte) Subject {
	return b.partitioned("group", streamGroup, b.layout.token("group", group), ".m")
}

// GroupLog is both subjects of a group, for reads.
func (b *Bus) GroupLog(group []byte) Subject {
	return b.partitioned("group", streamGroup, b.layout.token("group", group), ".*")
}

// Outbox holds what is to be delivered to one domain: out.<t>. Fan-out writes to every domain's, the KeyPackage store to its own domain's only, so its
// permission is that one subject.
func (b *Bus) Outbox(domain string) Subject {
	return Subject{name: "out." + b.layout.token("domain", []byte(domain)), stream: streamOutbox}
}

// Body holds one large payload by its hash: body.<t>.
func (b *Bus) Body(hash []byte) Subject {
	return Subject{name: "body." + b.layout.token("body", hash), stream: streamBody}
}

// Queue holds what a client has yet to acknowledge: queue.<p>.<t>.
func (b *Bus) Queue(id []byte) Subject {
	return b.partitioned("queue", streamQueue, b.layout.token("queue", id), "")
}

// QueueMeta holds a queue's record: queuemeta.<t>. Its token is not that of the queue.
func (b *Bus) QueueMeta(id []byte) Subject {
	return Subject{name: "queuemeta." + b.layout.token("queuemeta", id), stream: streamQueueMeta}
}

// KeyPackageSet holds one KeyPackage set of an owner: kp.<p>.<owner>.<set>.
func (b *Bus) KeyPackageSet(owner, set []byte) Subject {
	return b.partitioned("kp", streamKeyPackage, b.layout.token("kpowner", owner), "."+b.layout.token("kpset", set))
}

// KeyPackageSets is all sets of an owner, for reads.
func (b *Bus) KeyPackageSets(owner []byte) Subject {
	return b.partitioned("kp", streamKeyPackage, b.layout.token("kpowner", owner), ".*")
}

// KeyPackageAlias holds what a connection token's hash stands for: kpalias.<t>, in stream KPINDEX.
func (b *Bus) KeyPackageAlias(tokenHash []byte) Subject {
	return Subject{name: "kpalias." + b.layout.token("kpalias", tokenHash), stream: streamKPIndex}
}

// KeyPackageClaim holds the answer given to a claim: kpclaim.<t>, in stream KPINDEX.
func (b *Bus) KeyPackageClaim(requestID []byte) Subject {
	return Subject{name: "kpclaim." + b.layout.token("kpclaim", requestID), stream: streamKPIndex}
}

// KeyPackageServed says that a pseudonym was handed out: kpserved.<t>, in stream KPINDEX.
func (b *Bus) KeyPackageServed(pseudonym []byte) Subject {
	return Subject{name: "kpserved." + b.layout.token("kpserved", pseudonym), stream: streamKPIndex}
}

// Inbox holds a user's connection requests: inbox.<t>.
func (b *Bus) Inbox(user string) Subject {
	return Subject{name: "inbox." + b.layout.token("inbox", []byte(user)), stream: streamInbox}
}

// InboxRequest marks a connection request's id as taken: inboxreq.<t>, in stream INBOX. Publish with ExpectLast 0.
func (b *Bus) InboxRequest(requestID []byte) Subject {
	return Subject{name: "inboxreq." + b.layout.token("inboxreq", requestID), stream: streamInbox}
}

// Account holds a user's record: dir.u.<t>.
func (b *Bus) Account(user string) Subject {
	return Subject{name: "dir.u." + b.layout.token("dir.u", []byte(user)), stream: streamDirectory}
}

// AccountClient holds a client's record: dir.c.<t>.
func (b *Bus) AccountClient(client string) Subject {
	return Subject{name: "dir.c." + b.layout.token("dir.c", []byte(client)), stream: streamDirectory}
}

// PeerKey holds what is remembered of another domain, its pinned identity key above all: peer.<t>. It has a stream of its own, PEERS, since the
// relay side reads it, which must not see the directory.
func (b *Bus) PeerKey(domain string) Subject {
	return Subject{name: "peer." + b.layout.token("peer", []byte(domain)), stream: streamPeers}
}

// Links holds what new clients of a user and those that are there leave for each other: link.<t>. It has a stream of its own, LINKS: strangers write to
// it, and what they fill must not be the directory.
func (b *Bus) Links(user string) Subject {
	return Subject{name: "link." + b.layout.token("link", []byte(user)), stream: streamLinks}
}

// Revocations holds the last known list of a domain's revoked certificates, the own one's too: revoked.<t>. It is in a stream of its own, REVOKED, which
// holds nothing but what is published: the account side writes the own list, the relay side shows it.
func (b *Bus) Revocations(domain string) Subject {
	return Subject{name: "revoked." + b.layout.token("revoked", []byte(domain)), stream: streamRevoked}
}

// Spent marks an anonymous token as spent: spent.<epoch>.<t>. Publish with ExpectLast 0 and a TTL.
func (b *Bus) Spent(epoch uint64, nonceHash []byte) Subject {
	return Subject{name: "spent." + strconv.FormatUint(epoch, 10) + "." + b.layout.token("spent", nonceHash), stream: streamSpent}
}

// IssuerKey holds the domain's private key for one operation's tokens of an epoch, sealed: issuer.<epoch>.<t>. Publish with ExpectLast 0.
func (b *Bus) IssuerKey(epoch uint64, name []byte) Subject {
	return Subject{name: "issuer." + strconv.FormatUint(epoch, 10) + "." + b.layout.token("issuer", name), stream: streamIssuer}
}

// IssuerKeys is all issuer keys, for reads and removals: issuer.<epoch>.<t>.
func (b *Bus) IssuerKeys() Subject { return Subject{name: "issuer.*.*", stream: streamIssuer} }

// Setting holds what an operator set while services run: setting.<t>.
func (b *Bus) Setting(name string) Subject {
	return Subject{name: "setting." + b.layout.token("setting", []byte(name)), stream: streamSettings}
}

// Dead holds what this service could not process: dead.<service>.
func (b *Bus) Dead() Subject { return Subject{name: "dead." + b.service, stream: streamDead} }

// orderKey is what Consume keeps in order unless Consumer.By says otherwise: a group's token for both of its subjects, the subject itself for all others.
func orderKey(subject string) string {
	if t := strings.Split(subject, "."); len(t) == 4 && t[0] == "group" {
		return t[2]
	}
	return subject
}
