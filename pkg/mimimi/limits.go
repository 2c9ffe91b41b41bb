package mimimi

import "time"

// Sizes of suite 1, in bytes.
const (
	keySize       = 32 // X25519 and Ed25519 public keys, and every secret of ours (§0)
	signatureSize = 64 // Ed25519
	tagSize       = 16 // AES-128-GCM
	hashSize      = 32 // SHA-256
)

// Paddings (§4, §5, §9). A plaintext that does not fit is refused where it is made; the limits of names below see to it that none
// ever is, which a test shows with the longest names.
const (
	linkPlaintextSize    = 512
	linkCiphertextSize   = hashSize + linkPlaintextSize + tagSize
	requestPlaintextSize = 2048
	minPadded            = 256
	linkAnswerSize       = 512  // three names of one domain, four keys
	linkPackageSize      = 2048 // a KeyPackage has at most 1.5 kB with the longest names
)

// Limits of names, checked at registration (§0).
const (
	// maxDomain makes a client certificate with its signatures fit 512 bytes: two URIs of one domain (2·80), the longest user
	// name (64) and about 280 bytes of keys, signatures, dates and labels.
	maxDomain      = 80
	maxDomainLabel = 63 // RFC 1035 §2.3.4
	maxUserName    = 64 // RFC 5321 §4.5.3.1.1, the limit of mail
	uuidLen        = 36
)

// Limits of groups.
const (
	maxLeaves = 1000 // §9
	// maxLeafIndex bounds vectors indexed by leaf: a tree of 1,000 leaves is 1,024 wide, since Adds fill from the left.
	maxLeafIndex = 1024
	// MaxBans bounds a ban list: with the longest names it fills 80 kB of a group's largest message, 256 KiB.
	MaxBans = 512
	maxAdds = 200 // §6: keeps a commit with its KeyPackages, at most 1.4 kB each, under the bus's 8 MiB with the Welcome
)

// Limits of lists and fields, each far above need, so that a parser's work and memory stay small.
const (
	maxQueueKeys     = 16  // current, next, and a year of old ones (§10) at one per month
	maxOHTTPKeys     = 16  // three services, old and new
	maxOHTTPConfig   = 256 // an RFC 9458 key configuration of suite 1 has about 45 bytes
	maxServiceName   = 16
	maxIssuerKeys    = 48 // of three weeks, for five operations; three times as many as are needed
	maxOperationName = 32
	// maxRevoked keeps a list of revocations below 2.7 MB, a third of the bus's largest payload: in a domain of a million clients, one in fifteen lost or
	// given up within a certificate's life.
	maxRevoked = 1 << 16
	// maxBarred keeps a State, of which every checkpoint holds a copy, near 1 MiB. At the bound a group takes no newcomers; members can
	// still leave and be removed.
	maxBarred = 1 << 16
)

// Times.
const (
	day          = 24 * time.Hour
	week         = 7 * day
	leafLifetime = 90 * day // §2
	// revocationMargin keeps an expired certificate on the list of revocations while leaves live that entered with it: a newcomer accepts one that was
	// valid at the start of the leaf's week (§3), and a leaf's lifetime is 90 days from there.
	revocationMargin    = 100 * day
	certificateBackdate = 8 * day // §3: a leaf's week starts at most 8 days before it is made
	requestSkew         = 10 * time.Minute
	joinerPatience      = 10 * time.Minute // §4: the next external joiner waits at most this long
	freshEntry          = 24 * time.Hour   // §4: any member may remove a leaf that entered within this time
	clockSkew           = time.Hour        // of a client that makes a KeyPackage just after the week turned
	maxUnix             = 1 << 40          // year 36812: keeps every time.Time arithmetic in range
)
