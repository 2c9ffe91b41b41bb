//! Between the protocol's values and the library's.

use mls_rs::extension::ExtensionType;
use mls_rs::group::proposal::Proposal;
use mls_rs::identity::{Credential, CredentialType, CustomCredential, basic::BasicCredential};
use mls_rs::{Extension, ExtensionList};
use protocol::Bytes;

pub fn extensions(list: &[protocol::Extension]) -> ExtensionList {
    list.iter().map(|e| Extension::new(ExtensionType::new(e.kind), e.data.0.clone())).collect()
}

pub fn shown(list: &ExtensionList) -> Vec<protocol::Extension> {
    list.iter().map(|e| protocol::Extension { kind: e.extension_type.raw_value(), data: Bytes(e.extension_data.clone()) }).collect()
}

pub fn credential(c: &protocol::Credential) -> Credential {
    match c.kind {
        1 => Credential::Basic(BasicCredential::new(c.body.0.clone())),
        kind => Credential::Custom(CustomCredential::new(CredentialType::new(kind), c.body.0.clone())),
    }
}

pub fn shown_credential(c: &Credential) -> protocol::Credential {
    let body = match c {
        Credential::Basic(b) => b.identifier.clone(),
        Credential::Custom(c) => c.data.clone(),
        _ => vec![],
    };
    protocol::Credential { kind: c.credential_type().raw_value(), body: Bytes(body) }
}

pub fn seen(p: &Proposal) -> protocol::Seen {
    let body = match p {
        Proposal::Custom(c) => c.data().to_vec(),
        _ => vec![],
    };
    protocol::Seen { kind: p.proposal_type().raw_value(), body: Bytes(body) }
}

/// opaque is a proposal whose content the tests do not look at.
pub fn opaque(kind: u16) -> protocol::Seen {
    protocol::Seen { kind, body: Bytes::default() }
}
