package bus

// PeerKey holds what is remembered of another domain, its pinned identity key above all: peer.<t>. It has a stream of its own, PEERS, since the
// relay side reads it, which must not see the directory.
func (b *Bus) PeerKey(domain string) Subject {
	return Subject{name: "peer." + b.layout.token("peer", []byte(domain)), stream: streamPeers}
}
