package interop

// The protocol that the tests and a peer speak, as README.md describes it. One type holds every request, one every answer; each operation uses some of the fields.

type request struct {
	Op     string `json:"op"`
	Member uint32 `json:"member"`

	Profile    *profile    `json:"profile,omitempty"`
	Group      []byte      `json:"group,omitempty"`
	Extensions []extension `json:"extensions,omitempty"`
	Welcome    []byte      `json:"welcome,omitempty"`
	Tree       []byte      `json:"tree,omitempty"`
	WithTree   bool        `json:"withTree,omitempty"`
	Message    []byte      `json:"message,omitempty"`
	Data       []byte      `json:"data,omitempty"`
	AAD        []byte      `json:"aad,omitempty"`
	Private    bool        `json:"private,omitempty"`

	Proposal          *proposal   `json:"proposal,omitempty"`
	Proposals         []proposal  `json:"proposals,omitempty"`
	Path              bool        `json:"path,omitempty"`
	WelcomeExtensions []extension `json:"welcomeExtensions,omitempty"`
	Leaf              []extension `json:"leaf,omitempty"`
	Rotate            bool        `json:"rotate,omitempty"`

	GroupInfo []byte   `json:"groupInfo,omitempty"`
	Resync    *uint32  `json:"resync,omitempty"`
	PSKs      [][]byte `json:"psks,omitempty"`
	Pending   [][]byte `json:"pending,omitempty"`

	As          uint32   `json:"as,omitempty"` // the number that a member of this one's successor or branch gets
	KeyPackages [][]byte `json:"keyPackages,omitempty"`
	Sender      uint32   `json:"sender,omitempty"` // index in external_senders

	ID      []byte `json:"id,omitempty"`
	Secret  []byte `json:"secret,omitempty"`
	Label   string `json:"label,omitempty"`
	Context []byte `json:"context,omitempty"`
	Length  int    `json:"length,omitempty"`
}

type answer struct {
	Name   string   `json:"name"`
	Suites []uint16 `json:"suites"`
	Lacks  []string `json:"lacks"`

	Message    []byte      `json:"message"`
	Welcome    []byte      `json:"welcome"`
	Tree       []byte      `json:"tree"`
	Secret     []byte      `json:"secret"`
	Key        []byte      `json:"key"`
	Extensions []extension `json:"extensions"`

	Kind        string `json:"kind"` // application, proposal, commit, or removed for a commit that removes the member
	Application []byte `json:"application"`
	AAD         []byte `json:"aad"`
	Proposals   []seen `json:"proposals"`

	status
}

// status is what a member says of its group. Members agree if all but Leaf are equal.
type status struct {
	Epoch         uint64 `json:"epoch"`
	Authenticator []byte `json:"authenticator"`
	TreeHash      []byte `json:"treeHash"`
	Leaf          uint32 `json:"leaf"`
	Members       []leaf `json:"members"`
}

type leaf struct {
	Leaf       uint32     `json:"leaf"`
	Credential credential `json:"credential"`
}

// profile is what a client shows of itself in its leaf.
type profile struct {
	Suite       uint16      `json:"suite"`
	Credential  credential  `json:"credential"`
	Leaf        []extension `json:"leaf"`
	Extensions  []uint16    `json:"extensions"`
	Proposals   []uint16    `json:"proposals"`
	Credentials []uint16    `json:"credentials"`
	LastResort  bool        `json:"lastResort"`
}

type credential struct {
	Type uint16 `json:"type"`
	Body []byte `json:"body"`
}

type extension struct {
	Type uint16 `json:"type"`
	Data []byte `json:"data"`
}

// proposal is a proposal to make. PSK is the id of an external PSK, Epoch that of a resumption PSK of the group itself, Body the content of a custom
// proposal's opaque<V>. Group, Suite and Extensions are a ReInit's.
type proposal struct {
	Type       uint16      `json:"type"`
	KeyPackage []byte      `json:"keyPackage,omitempty"`
	Removed    uint32      `json:"removed,omitempty"`
	PSK        []byte      `json:"psk,omitempty"`
	Epoch      *uint64     `json:"epoch,omitempty"`
	Group      []byte      `json:"group,omitempty"`
	Suite      uint16      `json:"suite,omitempty"`
	Extensions []extension `json:"extensions,omitempty"`
	Body       []byte      `json:"body,omitempty"`
}

// seen is a proposal as its receiver saw it.
type seen struct {
	Type uint16 `json:"type"`
	Body []byte `json:"body"`
}

// Features that a peer may lack, by the names that it gives.
const (
	update                  = "update"          // making Update proposals
	selfRemove              = "selfRemove"      // all of self_remove
	commitPath              = "commitPath"      // a path in a commit whose proposals ask for one: a Remove, an Update, new GroupContext extensions
	ownRemoval              = "ownRemoval"      // reading the commit that removes the member itself
	unmergedLeaves          = "unmergedLeaves"  // joining where unmerged_leaves differ on a path, as RFC 9420 §7.9 allows
	lateFromGone            = "lateFromGone"    // reading a late message whose sender has left since, or has another leaf or signature key
	mixedPSKs               = "mixedPSKs"       // committing PSKs by value and by reference at once
	leafChange              = "leafChange"      // a commit that changes the own leaf's extensions or signature key
	tamperedPrivate         = "tamperedPrivate" // reading a PrivateMessage after one that it was changed into
	proposeResumption       = "proposeResumptionPSK"
	externalSenders         = "externalSenders"   // being in a group with an external_senders extension
	externalSenderPSK       = "externalSenderPSK" // making and reading PSK proposals of an external sender
	reInit                  = "reInit"
	branch                  = "branch"
	reInitOtherHash         = "reInitOtherHash"       // founding a successor with a suite whose hash has another length
	reInitBlankLeaf         = "reInitBlankLeaf"       // following the ReInit of a group whose tree has a blank leaf
	successorRequirements   = "successorRequirements" // joining a successor with required_capabilities
	externalPSK             = "externalCommitPSK"
	externalCustomProposal  = "externalCommitCustomProposal"
	externalSelfRemove      = "externalCommitSelfRemove" // taking up a standalone self_remove in an external commit
	receivesExternalPSK     = "receiveExternalCommitPSK"
	receivesExternalCustoms = "receiveExternalCommitCustomProposal"
)
