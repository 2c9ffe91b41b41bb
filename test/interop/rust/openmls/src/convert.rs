//! Between the protocol's values and the library's.

use openmls::prelude::tls_codec::{Deserialize, Serialize, VLBytes};
use openmls::prelude::*;
use openmls::schedule::psk::{ResumptionPsk, ResumptionPskUsage};
use openmls::schedule::{PreSharedKeyId, Psk};
use protocol::{Bytes, Result, err};

/// extension reads one extension as the wire has it: whatever type the library knows, it parses.
fn extension(e: &protocol::Extension) -> Result<Extension> {
    let mut wire = e.kind.to_be_bytes().to_vec();
    VLBytes::new(e.data.0.clone()).tls_serialize(&mut wire).map_err(err)?;
    Extension::tls_deserialize_exact(wire).map_err(err)
}

pub fn extensions(list: &[protocol::Extension]) -> Result<Vec<Extension>> {
    list.iter().map(extension).collect()
}

pub fn shown<'a>(list: impl Iterator<Item = &'a Extension>) -> Result<Vec<protocol::Extension>> {
    list.map(|e| {
        let wire = e.tls_serialize_detached().map_err(err)?;
        let (kind, data) = wire.split_at(2);
        let data = VLBytes::tls_deserialize_exact(data).map_err(err)?;
        Ok(protocol::Extension { kind: u16::from_be_bytes([kind[0], kind[1]]), data: Bytes(data.into()) })
    })
    .collect()
}

pub fn credential(c: &protocol::Credential) -> Credential {
    Credential::new(CredentialType::from(c.kind), c.body.0.clone())
}

pub fn suite(id: u16) -> Result<Ciphersuite> {
    Ciphersuite::try_from(id).map_err(err)
}

pub fn capabilities(p: &protocol::Profile) -> Result<Capabilities> {
    let extensions: Vec<ExtensionType> = p.extensions.iter().map(|&t| t.into()).collect();
    let proposals: Vec<ProposalType> = p.proposals.iter().map(|&t| t.into()).collect();
    let credentials: Vec<CredentialType> = p.credentials.iter().map(|&t| t.into()).collect();
    Ok(Capabilities::new(None, Some(&[suite(p.suite)?]), Some(&extensions), Some(&proposals), Some(&credentials)))
}

pub fn key_package(provider: &impl OpenMlsProvider, message: &[u8]) -> Result<KeyPackage> {
    match MlsMessageIn::tls_deserialize_exact(message).map_err(err)?.extract() {
        MlsMessageBodyIn::KeyPackage(kp) => kp.validate(provider.crypto(), ProtocolVersion::Mls10).map_err(err),
        _ => Err("not a KeyPackage".into()),
    }
}

pub fn psk_id(provider: &impl OpenMlsProvider, suite: Ciphersuite, id: &[u8]) -> Result<PreSharedKeyId> {
    let psk = Psk::External(openmls::schedule::ExternalPsk::new(id.to_vec()));
    PreSharedKeyId::new(suite, provider.rand(), psk).map_err(err)
}

pub fn resumption_id(provider: &impl OpenMlsProvider, suite: Ciphersuite, group: &GroupId, epoch: u64) -> Result<PreSharedKeyId> {
    let psk = Psk::Resumption(ResumptionPsk::new(ResumptionPskUsage::Application, group.clone(), epoch.into()));
    PreSharedKeyId::new(suite, provider.rand(), psk).map_err(err)
}

pub fn seen(p: &Proposal) -> protocol::Seen {
    let body = match p {
        Proposal::Custom(c) => c.payload().to_vec(),
        _ => vec![],
    };
    protocol::Seen { kind: p.proposal_type().into(), body: Bytes(body) }
}
