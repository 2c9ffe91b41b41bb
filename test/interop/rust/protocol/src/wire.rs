//! Requests and answers.

use base64::{Engine, engine::general_purpose::STANDARD};
use serde::{Deserialize, Deserializer, Serialize, Serializer, de::Error};

/// A byte string, base64 in JSON; null is the empty one.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Bytes(pub Vec<u8>);

impl Serialize for Bytes {
    fn serialize<S: Serializer>(&self, s: S) -> Result<S::Ok, S::Error> {
        s.serialize_str(&STANDARD.encode(&self.0))
    }
}

impl<'de> Deserialize<'de> for Bytes {
    fn deserialize<D: Deserializer<'de>>(d: D) -> Result<Self, D::Error> {
        match Option::<String>::deserialize(d)? {
            Some(text) => STANDARD.decode(text).map(Bytes).map_err(D::Error::custom),
            None => Ok(Bytes::default()),
        }
    }
}

#[derive(Deserialize)]
pub struct Request {
    #[serde(default)]
    pub member: u32,
    #[serde(flatten)]
    pub op: Op,
}

#[derive(Deserialize)]
#[serde(tag = "op", rename_all = "camelCase", rename_all_fields = "camelCase")]
pub enum Op {
    Hello,
    KeyPackage {
        profile: Profile,
    },
    Create {
        profile: Profile,
        group: Bytes,
        #[serde(default)]
        extensions: Vec<Extension>,
    },
    Join {
        welcome: Bytes,
        #[serde(default)]
        tree: Option<Bytes>,
    },
    Process {
        message: Bytes,
    },
    Send {
        #[serde(default)]
        data: Bytes,
        #[serde(default)]
        aad: Bytes,
    },
    Propose {
        proposal: Proposal,
        #[serde(default)]
        private: bool,
        #[serde(default)]
        aad: Bytes,
    },
    Commit(Commit),
    Merge,
    Discard,
    GroupInfo {
        #[serde(default)]
        with_tree: bool,
        #[serde(default)]
        extensions: Vec<Extension>,
    },
    Tree,
    ExternalJoin(ExternalJoin),
    Signer {
        profile: Profile,
    },
    ProposeJoin {
        profile: Profile,
        group_info: Bytes,
        tree: Bytes,
    },
    ProposeExternal {
        group_info: Bytes,
        tree: Bytes,
        #[serde(default)]
        sender: u32,
        proposal: Proposal,
    },
    Found {
        #[serde(rename = "as")]
        heir: u32,
        profile: Profile,
        group: Bytes,
        #[serde(default)]
        key_packages: Vec<Bytes>,
    },
    JoinNext {
        #[serde(rename = "as")]
        heir: u32,
        welcome: Bytes,
        tree: Bytes,
    },
    Psk {
        id: Bytes,
        secret: Bytes,
    },
    Export {
        label: String,
        #[serde(default)]
        context: Bytes,
        length: usize,
    },
    Status,
    Drop,
}

/// What the peer is and what it cannot do. The names of what it lacks are those of the tests.
#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Hello {
    pub name: String,
    pub suites: Vec<u16>,
    pub lacks: Vec<&'static str>,
}

/// What a client shows of itself in its leaf.
#[derive(Clone, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Profile {
    pub suite: u16,
    pub credential: Credential,
    /// Extensions of the leaf.
    #[serde(default)]
    pub leaf: Vec<Extension>,
    /// Capabilities beyond the defaults of RFC 9420.
    #[serde(default)]
    pub extensions: Vec<u16>,
    #[serde(default)]
    pub proposals: Vec<u16>,
    #[serde(default)]
    pub credentials: Vec<u16>,
    #[serde(default)]
    pub last_resort: bool,
}

#[derive(Clone, Deserialize, Serialize)]
pub struct Credential {
    #[serde(rename = "type")]
    pub kind: u16,
    pub body: Bytes,
}

#[derive(Clone, Deserialize, Serialize)]
pub struct Extension {
    #[serde(rename = "type")]
    pub kind: u16,
    pub data: Bytes,
}

/// A proposal. Which fields count depends on its type.
#[derive(Clone, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Proposal {
    #[serde(rename = "type")]
    pub kind: u16,
    #[serde(default)]
    pub key_package: Bytes,
    #[serde(default)]
    pub removed: u32,
    /// The id of an external PSK.
    #[serde(default)]
    pub psk: Bytes,
    /// The epoch of a resumption PSK of the group itself.
    #[serde(default)]
    pub epoch: Option<u64>,
    /// The group id and suite of a ReInit.
    #[serde(default)]
    pub group: Bytes,
    #[serde(default)]
    pub suite: u16,
    #[serde(default)]
    pub extensions: Vec<Extension>,
    /// The content of the opaque vector that is a custom proposal's body.
    #[serde(default)]
    pub body: Bytes,
}

pub const ADD: u16 = 1;
pub const UPDATE: u16 = 2;
pub const REMOVE: u16 = 3;
pub const PSK: u16 = 4;
pub const REINIT: u16 = 5;
pub const GROUP_CONTEXT_EXTENSIONS: u16 = 7;
pub const SELF_REMOVE: u16 = 10;

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Commit {
    #[serde(default)]
    pub proposals: Vec<Proposal>,
    #[serde(default)]
    pub path: bool,
    #[serde(default)]
    pub private: bool,
    #[serde(default)]
    pub aad: Bytes,
    /// Whether the Welcome holds the tree.
    #[serde(default)]
    pub with_tree: bool,
    /// Extensions of the Welcome's GroupInfo.
    #[serde(default)]
    pub welcome_extensions: Vec<Extension>,
    /// New extensions of the own leaf.
    #[serde(default)]
    pub leaf: Option<Vec<Extension>>,
    /// Whether the own leaf gets a new signature key.
    #[serde(default)]
    pub rotate: bool,
}

#[derive(Serialize)]
pub struct Committed {
    pub message: Bytes,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub welcome: Option<Bytes>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct ExternalJoin {
    pub profile: Profile,
    pub group_info: Bytes,
    #[serde(default)]
    pub tree: Option<Bytes>,
    /// The own old leaf, if this is a resync.
    #[serde(default)]
    pub resync: Option<u32>,
    /// Ids of external PSKs.
    #[serde(default)]
    pub psks: Vec<Bytes>,
    /// Custom proposals by value.
    #[serde(default)]
    pub proposals: Vec<Proposal>,
    /// Standalone self_remove proposals to commit by reference.
    #[serde(default)]
    pub pending: Vec<Bytes>,
    #[serde(default)]
    pub aad: Bytes,
}

#[derive(Serialize)]
pub struct Processed {
    /// application, proposal, commit, or removed for a commit that removes the member.
    pub kind: &'static str,
    pub application: Bytes,
    pub aad: Bytes,
    pub proposals: Vec<Seen>,
}

/// A proposal as the peer saw it: its type, and the body of a custom one.
#[derive(Serialize)]
pub struct Seen {
    #[serde(rename = "type")]
    pub kind: u16,
    pub body: Bytes,
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Status {
    pub epoch: u64,
    pub authenticator: Bytes,
    pub tree_hash: Bytes,
    pub leaf: u32,
    pub members: Vec<Leaf>,
    /// Extensions of the GroupContext.
    pub extensions: Vec<Extension>,
}

#[derive(Serialize)]
pub struct Leaf {
    pub leaf: u32,
    pub credential: Credential,
}
