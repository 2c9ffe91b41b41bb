//! A member by mls-rs.

use mls_rs::client_builder::{BaseConfig, WithCryptoProvider, WithIdentityProvider, WithKeyPackageRepo, WithMlsRules, WithPskStore};
use mls_rs::crypto::SignatureSecretKey;
use mls_rs::extension::ExtensionType;
use mls_rs::extension::recommended::LastResortKeyPackageExt;
use mls_rs::group::proposal::{CustomProposal, ProposalType};
use mls_rs::group::{CommitEffect, ExportedTree, ReceivedMessage};
use mls_rs::identity::{CredentialType, SigningIdentity};
use mls_rs::psk::{ExternalPskId, PreSharedKey};
use mls_rs::storage_provider::in_memory::{InMemoryKeyPackageStorage, InMemoryPreSharedKeyStorage};
use mls_rs::{CipherSuite, CipherSuiteProvider, Client, CryptoProvider, ExtensionList, Group, MlsMessage};
use mls_rs_crypto_awslc::AwsLcCryptoProvider;
use protocol::{Bytes, Commit, Committed, ExternalJoin, Processed, Profile, Result, Status, err};

use crate::convert;
use crate::policy::{Anyone, Options, Rules};

type Config = WithMlsRules<
    Rules,
    WithKeyPackageRepo<
        InMemoryKeyPackageStorage,
        WithPskStore<InMemoryPreSharedKeyStorage, WithIdentityProvider<Anyone, WithCryptoProvider<AwsLcCryptoProvider, BaseConfig>>>,
    >,
>;

pub struct MlsRs {
    rules: Rules,
    key_packages: InMemoryKeyPackageStorage,
    psks: InMemoryPreSharedKeyStorage,
    /// The signature key, from the first profile on.
    signer: Option<(SignatureSecretKey, SigningIdentity)>,
    /// The signature key that a commit in flight brings.
    next_signer: Option<(SignatureSecretKey, SigningIdentity)>,
    client: Option<Client<Config>>,
    group: Option<Group<Config>>,
}

fn parse(message: &[u8]) -> Result<MlsMessage> {
    MlsMessage::from_bytes(message).map_err(err)
}

fn generate(suite: u16, credential: mls_rs::identity::Credential) -> Result<(SignatureSecretKey, SigningIdentity)> {
    let provider = AwsLcCryptoProvider::default().cipher_suite_provider(CipherSuite::from(suite)).ok_or("unsupported suite")?;
    let (secret, public) = provider.signature_key_generate().map_err(err)?;
    Ok((secret, SigningIdentity::new(credential, public)))
}

impl MlsRs {
    /// client makes the client that a profile describes. Its signature key stays the same.
    fn client(&mut self, p: &Profile) -> Result<&Client<Config>> {
        let credential = convert::credential(&p.credential);
        let (secret, public) = match self.signer.take() {
            Some((secret, old)) => (secret, SigningIdentity::new(credential, old.signature_key)),
            None => generate(p.suite, credential)?,
        };
        self.signer = Some((secret.clone(), public.clone()));
        let client = Client::builder()
            .crypto_provider(AwsLcCryptoProvider::with_enabled_cipher_suites(vec![CipherSuite::from(p.suite)]))
            .identity_provider(Anyone(p.credentials.iter().map(|&t| CredentialType::new(t)).collect()))
            .psk_store(self.psks.clone())
            .key_package_repo(self.key_packages.clone())
            .mls_rules(self.rules.clone())
            .extension_types(p.extensions.iter().map(|&t| ExtensionType::new(t)))
            .custom_proposal_types(p.proposals.iter().map(|&t| ProposalType::new(t)))
            .signing_identity(public, secret, CipherSuite::from(p.suite))
            .build();
        Ok(self.client.insert(client))
    }

    fn group(&mut self) -> Result<&mut Group<Config>> {
        self.group.as_mut().ok_or_else(|| "no group".to_string())
    }
}

impl protocol::Member for MlsRs {
    fn new() -> Result<Self> {
        Ok(MlsRs {
            rules: Rules::default(),
            key_packages: InMemoryKeyPackageStorage::new(),
            psks: InMemoryPreSharedKeyStorage::default(),
            signer: None,
            next_signer: None,
            client: None,
            group: None,
        })
    }

    fn key_package(&mut self, p: Profile) -> Result<Vec<u8>> {
        let leaf = convert::extensions(&p.leaf);
        let mut extensions = ExtensionList::new();
        if p.last_resort {
            extensions.set_from(LastResortKeyPackageExt).map_err(err)?;
        }
        let message = self.client(&p)?.generate_key_package_message(extensions, leaf, None).map_err(err)?;
        message.to_bytes().map_err(err)
    }

    fn create(&mut self, p: Profile, group: Vec<u8>, extensions: Vec<protocol::Extension>) -> Result<()> {
        let (context, leaf) = (convert::extensions(&extensions), convert::extensions(&p.leaf));
        let made = self.client(&p)?.create_group_with_id(group, context, leaf, None).map_err(err)?;
        self.group = Some(made);
        Ok(())
    }

    fn join(&mut self, welcome: Vec<u8>, tree: Option<Vec<u8>>) -> Result<Vec<protocol::Extension>> {
        let tree = tree.map(|t| ExportedTree::from_bytes(&t)).transpose().map_err(err)?;
        let client = self.client.as_ref().ok_or("no client")?;
        let (group, info) = client.join_group(tree, &parse(&welcome)?, None).map_err(err)?;
        self.group = Some(group);
        Ok(convert::shown(&info.group_info_extensions))
    }

    fn process(&mut self, message: Vec<u8>) -> Result<Processed> {
        let received = self.group()?.process_incoming_message(parse(&message)?).map_err(err)?;
        Ok(match received {
            ReceivedMessage::ApplicationMessage(m) => {
                Processed { kind: "application", application: Bytes(m.data().to_vec()), aad: Bytes(m.authenticated_data), proposals: vec![] }
            }
            ReceivedMessage::Proposal(p) => Processed {
                kind: "proposal",
                application: Bytes::default(),
                aad: Bytes(p.authenticated_data),
                proposals: vec![convert::seen(&p.proposal)],
            },
            ReceivedMessage::Commit(c) => {
                let (kind, epoch) = match &c.effect {
                    CommitEffect::NewEpoch(epoch) => ("commit", Some(epoch)),
                    CommitEffect::Removed { new_epoch, .. } => ("removed", Some(new_epoch)),
                    _ => ("commit", None),
                };
                let proposals = epoch.iter().flat_map(|e| e.applied_proposals()).map(|p| convert::seen(&p.proposal)).collect();
                Processed { kind, application: Bytes::default(), aad: Bytes(c.authenticated_data), proposals }
            }
            _ => return Err("another kind of message".into()),
        })
    }

    fn send(&mut self, data: Vec<u8>, aad: Vec<u8>) -> Result<Vec<u8>> {
        self.group()?.encrypt_application_message(&data, aad).map_err(err)?.to_bytes().map_err(err)
    }

    fn propose(&mut self, p: protocol::Proposal, private: bool, aad: Vec<u8>) -> Result<Vec<u8>> {
        self.rules.set(Options { private, ..Options::default() });
        let group = self.group()?;
        let message = match p.kind {
            protocol::ADD => group.propose_add(parse(&p.key_package.0)?, aad),
            protocol::UPDATE => group.propose_update(aad),
            protocol::REMOVE => group.propose_remove(p.removed, aad),
            protocol::PSK => group.propose_external_psk(ExternalPskId::new(p.psk.0), aad),
            protocol::GROUP_CONTEXT_EXTENSIONS => group.propose_group_context_extensions(convert::extensions(&p.extensions), aad),
            protocol::SELF_REMOVE => group.propose_self_remove(aad),
            kind => group.propose_custom(CustomProposal::new(ProposalType::new(kind), p.body.0), aad),
        };
        message.map_err(err)?.to_bytes().map_err(err)
    }

    fn commit(&mut self, c: Commit) -> Result<Committed> {
        self.rules.set(Options { path: c.path, tree: c.with_tree, private: c.private });
        let next = match (c.rotate, &self.signer) {
            (true, Some((_, identity))) => {
                let suite = self.group.as_ref().ok_or("no group")?.cipher_suite();
                Some(generate(suite.into(), identity.credential.clone())?)
            }
            _ => None,
        };
        let mut builder = self.group()?.commit_builder().authenticated_data(c.aad.0);
        for p in c.proposals {
            builder = match p.kind {
                protocol::ADD => builder.add_member(parse(&p.key_package.0)?).map_err(err)?,
                protocol::REMOVE => builder.remove_member(p.removed).map_err(err)?,
                protocol::PSK => builder.add_external_psk(ExternalPskId::new(p.psk.0)).map_err(err)?,
                protocol::GROUP_CONTEXT_EXTENSIONS => builder.set_group_context_ext(convert::extensions(&p.extensions)).map_err(err)?,
                kind => builder.custom_proposal(CustomProposal::new(ProposalType::new(kind), p.body.0)),
            };
        }
        if !c.welcome_extensions.is_empty() {
            builder = builder.set_group_info_ext(convert::extensions(&c.welcome_extensions));
        }
        if let Some(leaf) = &c.leaf {
            builder = builder.set_leaf_node_extensions(convert::extensions(leaf));
        }
        if let Some((secret, identity)) = &next {
            builder = builder.set_new_signing_identity(secret.clone(), identity.clone());
        }
        let output = builder.build().map_err(err)?;
        self.next_signer = next;
        Ok(Committed {
            message: Bytes(output.commit_message.to_bytes().map_err(err)?),
            welcome: output.welcome_messages.first().map(|w| w.to_bytes().map(Bytes)).transpose().map_err(err)?,
        })
    }

    fn merge(&mut self) -> Result<()> {
        self.group()?.apply_pending_commit().map_err(err)?;
        if let Some(next) = self.next_signer.take() {
            self.signer = Some(next);
        }
        Ok(())
    }

    fn discard(&mut self) -> Result<()> {
        self.next_signer = None;
        self.group()?.clear_pending_commit();
        Ok(())
    }

    fn group_info(&mut self, tree: bool, extensions: Vec<protocol::Extension>) -> Result<Vec<u8>> {
        let list = convert::extensions(&extensions);
        let message = self.group()?.group_info_message_allowing_ext_commit_with_extensions(tree, list).map_err(err)?;
        message.to_bytes().map_err(err)
    }

    fn tree(&mut self) -> Result<Vec<u8>> {
        self.group()?.export_tree().to_bytes().map_err(err)
    }

    fn external_join(&mut self, j: ExternalJoin) -> Result<Vec<u8>> {
        let mut builder = self
            .client(&j.profile)?
            .external_commit_builder()
            .map_err(err)?
            .with_leaf_node_extensions(convert::extensions(&j.profile.leaf))
            .with_authenticated_data(j.aad.0);
        if let Some(tree) = j.tree {
            builder = builder.with_tree_data(ExportedTree::from_bytes(&tree.0).map_err(err)?.into_owned());
        }
        if let Some(leaf) = j.resync {
            builder = builder.with_removal(leaf);
        }
        for id in j.psks {
            builder = builder.with_external_psk(ExternalPskId::new(id.0));
        }
        for p in j.proposals {
            builder = builder.with_custom_proposal(CustomProposal::new(ProposalType::new(p.kind), p.body.0));
        }
        for p in j.pending {
            builder = builder.with_received_custom_proposal(parse(&p.0)?);
        }
        let (group, message) = builder.build(parse(&j.group_info.0)?).map_err(err)?;
        self.group = Some(group);
        message.to_bytes().map_err(err)
    }

    fn psk(&mut self, id: Vec<u8>, secret: Vec<u8>) -> Result<()> {
        self.psks.insert(ExternalPskId::new(id), PreSharedKey::new(secret));
        Ok(())
    }

    fn export(&mut self, label: String, context: Vec<u8>, length: usize) -> Result<Vec<u8>> {
        Ok(self.group()?.export_secret(label.as_bytes(), &context, length).map_err(err)?.as_bytes().to_vec())
    }

    fn status(&mut self) -> Result<Status> {
        let group = self.group()?;
        Ok(Status {
            epoch: group.current_epoch(),
            authenticator: Bytes(group.epoch_authenticator().map_err(err)?.as_bytes().to_vec()),
            tree_hash: Bytes(group.context().tree_hash.clone()),
            leaf: group.current_member_index(),
            members: group
                .roster()
                .members_iter()
                .map(|m| protocol::Leaf { leaf: m.index, credential: convert::shown_credential(&m.signing_identity.credential) })
                .collect(),
            extensions: convert::shown(&group.context().extensions),
        })
    }
}
