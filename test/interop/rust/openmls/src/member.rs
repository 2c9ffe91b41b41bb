//! A member by openmls.

use openmls::prelude::tls_codec::{Deserialize, Serialize};
use openmls::prelude::*;
use openmls_basic_credential::SignatureKeyPair;
use openmls_rust_crypto::OpenMlsRustCrypto;
use protocol::{Bytes, Commit, Committed, ExternalJoin, Processed, Profile, Result, Status, err};

use crate::convert;

/// How many past epochs' messages still open.
const PAST_EPOCHS: usize = 3;

/// How many epochs' resumption PSKs are kept.
const RESUMPTION_PSKS: usize = 8;

/// Application messages are padded to a multiple of this.
const PADDING: usize = 32;

pub struct OpenMls {
    provider: OpenMlsRustCrypto,
    /// The signature key, from the first profile on.
    signer: Option<SignatureKeyPair>,
    /// The signature key that a commit in flight brings.
    next_signer: Option<SignatureKeyPair>,
    group: Option<MlsGroup>,
}

fn join_config(private: bool) -> MlsGroupJoinConfig {
    MlsGroupJoinConfig::builder()
        .max_past_epochs(PAST_EPOCHS)
        .number_of_resumption_psks(RESUMPTION_PSKS)
        .padding_size(PADDING)
        .wire_format_policy(if private { MIXED_CIPHERTEXT_WIRE_FORMAT_POLICY } else { MIXED_PLAINTEXT_WIRE_FORMAT_POLICY })
        .build()
}

impl OpenMls {
    fn group(&mut self) -> Result<&mut MlsGroup> {
        self.group.as_mut().ok_or_else(|| "no group".to_string())
    }

    /// identity makes the signature key, if there is none yet, and pairs it with the credential.
    fn identity(&mut self, p: &Profile) -> Result<CredentialWithKey> {
        if self.signer.is_none() {
            self.signer = Some(SignatureKeyPair::new(convert::suite(p.suite)?.signature_algorithm()).map_err(err)?);
        }
        Ok(CredentialWithKey { credential: convert::credential(&p.credential), signature_key: self.signer()?.public().into() })
    }

    fn signer(&self) -> Result<&SignatureKeyPair> {
        self.signer.as_ref().ok_or_else(|| "no signature key".to_string())
    }

    /// observe reads a GroupInfo and its tree as somebody outside the group, and returns which group and epoch it is of.
    fn observe(&self, group_info: Vec<u8>, tree: Vec<u8>) -> Result<(GroupId, GroupEpoch)> {
        let MlsMessageBodyIn::GroupInfo(info) = MlsMessageIn::tls_deserialize_exact(group_info).map_err(err)?.extract() else {
            return Err("not a GroupInfo".into());
        };
        let tree = RatchetTreeIn::tls_deserialize_exact(tree).map_err(err)?;
        let (crypto, storage) = (self.provider.crypto(), self.provider.storage());
        let (group, _) = PublicGroup::from_external(crypto, storage, tree, info, ProposalStore::new()).map_err(err)?;
        Ok((group.group_id().clone(), group.group_context().epoch()))
    }

    /// ready sets what holds for the next handshake message.
    fn ready(&mut self, private: bool, aad: Bytes) -> Result<()> {
        let group = self.group.as_mut().ok_or("no group")?;
        group.set_configuration(self.provider.storage(), &join_config(private)).map_err(err)?;
        group.set_aad(aad.0);
        Ok(())
    }
}

impl protocol::Member for OpenMls {
    fn new() -> Result<Self> {
        Ok(OpenMls { provider: OpenMlsRustCrypto::default(), signer: None, next_signer: None, group: None })
    }

    fn key_package(&mut self, p: Profile) -> Result<Vec<u8>> {
        let identity = self.identity(&p)?;
        let mut builder = KeyPackage::builder()
            .leaf_node_capabilities(convert::capabilities(&p)?)
            .leaf_node_extensions(Extensions::from_vec(convert::extensions(&p.leaf)?).map_err(err)?);
        if p.last_resort {
            builder = builder.mark_as_last_resort();
        }
        let bundle = builder.build(convert::suite(p.suite)?, &self.provider, self.signer()?, identity).map_err(err)?;
        MlsMessageOut::from(bundle.into_key_package()).to_bytes().map_err(err)
    }

    fn create(&mut self, p: Profile, group: Vec<u8>, extensions: Vec<protocol::Extension>) -> Result<()> {
        let identity = self.identity(&p)?;
        let made = MlsGroup::builder()
            .with_group_id(GroupId::from_slice(&group))
            .ciphersuite(convert::suite(p.suite)?)
            .max_past_epochs(PAST_EPOCHS)
            .number_of_resumption_psks(RESUMPTION_PSKS)
            .padding_size(PADDING)
            .with_wire_format_policy(MIXED_PLAINTEXT_WIRE_FORMAT_POLICY)
            .with_capabilities(convert::capabilities(&p)?)
            .with_leaf_node_extensions(Extensions::from_vec(convert::extensions(&p.leaf)?).map_err(err)?)
            .map_err(err)?
            .with_group_context_extensions(Extensions::from_vec(convert::extensions(&extensions)?).map_err(err)?)
            .replace_old_group()
            .build(&self.provider, self.signer()?, identity)
            .map_err(err)?;
        self.group = Some(made);
        Ok(())
    }

    fn join(&mut self, welcome: Vec<u8>, tree: Option<Vec<u8>>) -> Result<Vec<protocol::Extension>> {
        let MlsMessageBodyIn::Welcome(welcome) = MlsMessageIn::tls_deserialize_exact(welcome).map_err(err)?.extract() else {
            return Err("not a Welcome".into());
        };
        let opened = ProcessedWelcome::new_from_welcome(&self.provider, &join_config(false), welcome).map_err(err)?;
        let extensions = convert::shown(opened.unverified_group_info().extensions().iter())?;
        let mut builder = JoinBuilder::new(&self.provider, opened).replace_old_group();
        if let Some(tree) = tree {
            builder = builder.with_ratchet_tree(RatchetTreeIn::tls_deserialize_exact(tree).map_err(err)?);
        }
        self.group = Some(builder.build().map_err(err)?.into_group(&self.provider).map_err(err)?);
        Ok(extensions)
    }

    fn process(&mut self, message: Vec<u8>) -> Result<Processed> {
        let message = MlsMessageIn::tls_deserialize_exact(message).map_err(err)?.try_into_protocol_message().map_err(err)?;
        let provider = &self.provider;
        let group = self.group.as_mut().ok_or("no group")?;
        let processed = group.process_message(provider, message).map_err(err)?;
        let mut answer = Processed { kind: "", application: Bytes::default(), aad: Bytes(processed.aad().to_vec()), proposals: vec![] };
        match processed.into_content() {
            ProcessedMessageContent::ApplicationMessage(m) => {
                answer.kind = "application";
                answer.application = Bytes(m.into_bytes());
            }
            ProcessedMessageContent::ProposalMessage(p) | ProcessedMessageContent::ExternalJoinProposalMessage(p) => {
                answer.kind = "proposal";
                answer.proposals.push(convert::seen(p.proposal()));
                group.store_pending_proposal(provider.storage(), *p).map_err(err)?;
            }
            ProcessedMessageContent::StagedCommitMessage(staged) => {
                answer.kind = if staged.self_removed() { "removed" } else { "commit" };
                answer.proposals = staged.queued_proposals().map(|p| convert::seen(p.proposal())).collect();
                group.merge_staged_commit(provider, *staged).map_err(err)?;
            }
            _ => return Err("another kind of message".into()),
        }
        Ok(answer)
    }

    fn send(&mut self, data: Vec<u8>, aad: Vec<u8>) -> Result<Vec<u8>> {
        self.ready(false, Bytes(aad))?;
        let signer = self.signer.as_ref().ok_or("no signature key")?;
        let group = self.group.as_mut().ok_or("no group")?;
        group.create_message(&self.provider, signer, &data).map_err(err)?.to_bytes().map_err(err)
    }

    fn propose(&mut self, p: protocol::Proposal, private: bool, aad: Vec<u8>) -> Result<Vec<u8>> {
        self.ready(private, Bytes(aad))?;
        let signer = self.signer.as_ref().ok_or("no signature key")?;
        let group = self.group.as_mut().ok_or("no group")?;
        if p.kind == protocol::SELF_REMOVE {
            return group.leave_group_via_self_remove(&self.provider, signer).map_err(err)?.to_bytes().map_err(err);
        }
        let what = match p.kind {
            protocol::ADD => Propose::Add(convert::key_package(&self.provider, &p.key_package.0)?),
            protocol::UPDATE => Propose::Update(LeafNodeParameters::default()),
            protocol::REMOVE => Propose::Remove(p.removed),
            protocol::PSK => Propose::PreSharedKey(convert::psk_id(&self.provider, group.ciphersuite(), &p.psk.0)?),
            protocol::GROUP_CONTEXT_EXTENSIONS => {
                Propose::GroupContextExtensions(Extensions::from_vec(convert::extensions(&p.extensions)?).map_err(err)?)
            }
            kind => Propose::Custom(CustomProposal::new(kind, p.body.0)),
        };
        let (message, _) = group.propose(&self.provider, signer, what, ProposalOrRefType::Reference).map_err(err)?;
        message.to_bytes().map_err(err)
    }

    fn commit(&mut self, c: Commit) -> Result<Committed> {
        self.ready(c.private, c.aad)?;
        let provider = &self.provider;
        let signer = self.signer.as_ref().ok_or("no signature key")?;
        let group = self.group.as_mut().ok_or("no group")?;
        let suite = group.ciphersuite();
        let id = group.group_id().clone();
        let credential = group.credential().map_err(err)?.clone();
        let mut builder = group.commit_builder().force_self_update(c.path);
        for p in c.proposals {
            builder = match p.kind {
                protocol::ADD => builder.propose_adds([convert::key_package(provider, &p.key_package.0)?]),
                protocol::REMOVE => builder.propose_removals([LeafNodeIndex::new(p.removed)]),
                protocol::PSK => {
                    let id = match p.epoch {
                        Some(epoch) => convert::resumption_id(provider, suite, &id, epoch)?,
                        None => convert::psk_id(provider, suite, &p.psk.0)?,
                    };
                    builder.add_proposal(Proposal::PreSharedKey(Box::new(PreSharedKeyProposal::new(id))))
                }
                protocol::GROUP_CONTEXT_EXTENSIONS => {
                    let list = Extensions::from_vec(convert::extensions(&p.extensions)?).map_err(err)?;
                    builder.propose_group_context_extensions(list).map_err(err)?
                }
                kind => builder.add_proposal(Proposal::Custom(Box::new(CustomProposal::new(kind, p.body.0)))),
            };
        }
        if let Some(leaf) = &c.leaf {
            let list = Extensions::from_vec(convert::extensions(leaf)?).map_err(err)?;
            builder = builder.leaf_node_parameters(LeafNodeParameters::builder().with_extensions(list).build());
        }
        let loaded = builder
            .load_psks(provider.storage())
            .map_err(err)?
            .create_group_info_with_extensions(convert::extensions(&c.welcome_extensions)?)
            .map_err(err)?
            .use_ratchet_tree_extension(c.with_tree);
        let built = if c.rotate {
            let next = SignatureKeyPair::new(suite.signature_algorithm()).map_err(err)?;
            let identity = CredentialWithKey { credential, signature_key: next.public().into() };
            let bundle = NewSignerBundle { signer: &next, credential_with_key: identity };
            let built = loaded.build_with_new_signer(provider.rand(), provider.crypto(), signer, bundle, |_| true).map_err(err)?;
            self.next_signer = Some(next);
            built
        } else {
            loaded.build(provider.rand(), provider.crypto(), signer, |_| true).map_err(err)?
        };
        let (message, welcome, _) = built.stage_commit(provider).map_err(err)?.into_messages();
        let welcome = welcome.map(|w| w.to_bytes().map(Bytes)).transpose().map_err(err)?;
        Ok(Committed { message: Bytes(message.to_bytes().map_err(err)?), welcome })
    }

    fn merge(&mut self) -> Result<()> {
        let provider = &self.provider;
        self.group.as_mut().ok_or("no group")?.merge_pending_commit(provider).map_err(err)?;
        if let Some(next) = self.next_signer.take() {
            self.signer = Some(next);
        }
        Ok(())
    }

    fn discard(&mut self) -> Result<()> {
        self.next_signer = None;
        let storage = self.provider.storage();
        self.group.as_mut().ok_or("no group")?.clear_pending_commit(storage).map_err(err)
    }

    fn group_info(&mut self, tree: bool, extensions: Vec<protocol::Extension>) -> Result<Vec<u8>> {
        let signer = self.signer.as_ref().ok_or("no signature key")?;
        let group = self.group.as_ref().ok_or("no group")?;
        group
            .export_group_info_with_additional_extensions(self.provider.crypto(), signer, tree, convert::extensions(&extensions)?)
            .map_err(err)?
            .to_bytes()
            .map_err(err)
    }

    fn tree(&mut self) -> Result<Vec<u8>> {
        self.group()?.export_ratchet_tree().tls_serialize_detached().map_err(err)
    }

    fn external_join(&mut self, j: ExternalJoin) -> Result<Vec<u8>> {
        let identity = self.identity(&j.profile)?;
        let info = MlsMessageIn::tls_deserialize_exact(j.group_info.0).map_err(err)?.extract();
        let MlsMessageBodyIn::GroupInfo(info) = info else {
            return Err("not a GroupInfo".into());
        };
        if !j.proposals.is_empty() {
            return Err("this library takes no custom proposal into an external commit".into());
        }
        let mut pending = vec![];
        for p in j.pending {
            match MlsMessageIn::tls_deserialize_exact(p.0).map_err(err)?.extract() {
                MlsMessageBodyIn::PublicMessage(m) => pending.push(m),
                _ => return Err("not a PublicMessage".into()),
            }
        }
        let leaf = LeafNodeParameters::builder()
            .with_capabilities(convert::capabilities(&j.profile)?)
            .with_extensions(Extensions::from_vec(convert::extensions(&j.profile.leaf)?).map_err(err)?)
            .build();
        let mut builder = MlsGroup::external_commit_builder().with_config(join_config(false)).with_aad(j.aad.0).with_proposals(pending);
        if let Some(tree) = j.tree {
            builder = builder.with_ratchet_tree(RatchetTreeIn::tls_deserialize_exact(tree.0).map_err(err)?);
        }
        // The library finds the old leaf of a resync by itself: it is the one with the same signature key.
        let provider = &self.provider;
        let signer = self.signer.as_ref().ok_or("no signature key")?;
        let mut commit = builder.build_group(provider, info, identity).map_err(err)?.leaf_node_parameters(leaf);
        let suite = convert::suite(j.profile.suite)?;
        for id in &j.psks {
            commit = commit.add_psk_proposal(PreSharedKeyProposal::new(convert::psk_id(provider, suite, &id.0)?));
        }
        let built = commit.load_psks(provider.storage()).map_err(err)?;
        let built = built.build(provider.rand(), provider.crypto(), signer, |_| true).map_err(err)?;
        let (group, bundle) = built.finalize(provider).map_err(err)?;
        self.group = Some(group);
        bundle.into_commit().to_bytes().map_err(err)
    }

    fn make_signer(&mut self, p: Profile) -> Result<Vec<u8>> {
        Ok(self.identity(&p)?.signature_key.as_slice().to_vec())
    }

    fn propose_join(&mut self, p: Profile, group_info: Vec<u8>, tree: Vec<u8>) -> Result<Vec<u8>> {
        let (group, epoch) = self.observe(group_info, tree)?;
        let message = self.key_package(p)?;
        let key_package = convert::key_package(&self.provider, &message)?;
        let message = JoinProposal::new::<<OpenMlsRustCrypto as OpenMlsProvider>::StorageProvider>(key_package, group, epoch, self.signer()?);
        message.map_err(err)?.to_bytes().map_err(err)
    }

    fn propose_external(&mut self, group_info: Vec<u8>, tree: Vec<u8>, sender: u32, p: protocol::Proposal) -> Result<Vec<u8>> {
        let (group, epoch) = self.observe(group_info, tree)?;
        let (signer, sender) = (self.signer()?, SenderExtensionIndex::new(sender));
        let message = match p.kind {
            protocol::ADD => {
                let key_package = convert::key_package(&self.provider, &p.key_package.0)?;
                ExternalProposal::new_add::<OpenMlsRustCrypto>(key_package, group, epoch, signer, sender).map_err(err)?
            }
            protocol::REMOVE => {
                let removed = LeafNodeIndex::new(p.removed);
                ExternalProposal::new_remove::<OpenMlsRustCrypto>(removed, group, epoch, signer, sender).map_err(err)?
            }
            protocol::GROUP_CONTEXT_EXTENSIONS => {
                let list = Extensions::from_vec(convert::extensions(&p.extensions)?).map_err(err)?;
                ExternalProposal::new_group_context_extensions::<OpenMlsRustCrypto>(list, group, epoch, signer, sender).map_err(err)?
            }
            _ => return Err("this library makes no such proposal of an external sender".into()),
        };
        message.to_bytes().map_err(err)
    }

    fn found(&mut self, _: Profile, _: Vec<u8>, _: Vec<Vec<u8>>) -> Result<(Self, Vec<u8>)> {
        Err("this library founds neither successors nor branches".into())
    }

    fn join_next(&mut self, _: Vec<u8>, _: Vec<u8>) -> Result<Self> {
        Err("this library joins neither successors nor branches".into())
    }

    fn psk(&mut self, id: Vec<u8>, secret: Vec<u8>) -> Result<()> {
        // The secret is stored under the id alone, whatever suite the nonce was made for.
        let suite = Ciphersuite::MLS_128_DHKEMX25519_AES128GCM_SHA256_Ed25519;
        convert::psk_id(&self.provider, suite, &id)?.store(&self.provider, &secret).map_err(err)
    }

    fn export(&mut self, label: String, context: Vec<u8>, length: usize) -> Result<Vec<u8>> {
        let group = self.group.as_ref().ok_or("no group")?;
        group.export_secret(self.provider.crypto(), &label, &context, length).map_err(err)
    }

    fn status(&mut self) -> Result<Status> {
        let group = self.group()?;
        Ok(Status {
            epoch: group.epoch().as_u64(),
            authenticator: Bytes(group.epoch_authenticator().as_slice().to_vec()),
            tree_hash: Bytes(group.public_group().group_context().tree_hash().to_vec()),
            leaf: group.own_leaf_index().u32(),
            members: group
                .members()
                .map(|m| protocol::Leaf {
                    leaf: m.index.u32(),
                    credential: protocol::Credential {
                        kind: m.credential.credential_type().into(),
                        body: Bytes(m.credential.serialized_content().to_vec()),
                    },
                })
                .collect(),
            extensions: convert::shown(group.extensions().iter())?,
        })
    }
}
