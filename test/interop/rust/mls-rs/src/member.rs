//! A member by mls-rs.

use mls_rs::client_builder::{BaseConfig, WithCryptoProvider, WithIdentityProvider, WithKeyPackageRepo, WithMlsRules, WithPskStore};
use mls_rs::crypto::SignatureSecretKey;
use mls_rs::extension::ExtensionType;
use mls_rs::extension::recommended::LastResortKeyPackageExt;
use mls_rs::external_client::ExternalClient;
use mls_rs::group::proposal::{CustomProposal, ProposalType};
use mls_rs::group::{CommitEffect, ExportedTree, NewEpoch, ReceivedMessage, ReinitClient};
use mls_rs::identity::{CredentialType, SigningIdentity};
use mls_rs::psk::{ExternalPskId, PreSharedKey};
use mls_rs::storage_provider::in_memory::{InMemoryKeyPackageStorage, InMemoryPreSharedKeyStorage};
use mls_rs::{CipherSuite, CipherSuiteProvider, Client, CryptoProvider, ExtensionList, Group, MlsMessage, ProtocolVersion};
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
    /// The signature key, of the suite of the last profile.
    signer: Option<(SignatureSecretKey, SigningIdentity)>,
    /// The signature key that a commit in flight brings.
    next_signer: Option<(SignatureSecretKey, SigningIdentity)>,
    client: Option<Client<Config>>,
    group: Option<Group<Config>>,
    /// The suite of the signature key.
    suite: u16,
    /// Whether the last commit was a ReInit.
    ended: bool,
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
    /// identity makes the signature key, if there is none of the suite yet, and pairs it with the credential.
    fn identity(&mut self, p: &Profile) -> Result<(SignatureSecretKey, SigningIdentity)> {
        let credential = convert::credential(&p.credential);
        let pair = match self.signer.take() {
            Some((secret, old)) if self.suite == p.suite => (secret, SigningIdentity::new(credential, old.signature_key)),
            _ => generate(p.suite, credential)?,
        };
        self.suite = p.suite;
        self.signer = Some(pair.clone());
        Ok(pair)
    }

    /// client makes the client that a profile describes. It has all suites: a successor may be of another one.
    fn client(&mut self, p: &Profile) -> Result<&Client<Config>> {
        let (secret, public) = self.identity(p)?;
        let client = Client::builder()
            .crypto_provider(AwsLcCryptoProvider::default())
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

    /// successor is what founds or joins the group that follows one which a ReInit has ended.
    fn successor(&mut self) -> Result<ReinitClient<Config>> {
        let (secret, identity) = self.signer.clone().ok_or("no signature key")?;
        self.group.take().ok_or("no group")?.get_reinit_client(Some(secret), Some(identity)).map_err(err)
    }

    /// heir is the same client in another group.
    fn heir(&self, group: Group<Config>) -> Self {
        MlsRs {
            rules: self.rules.clone(),
            key_packages: self.key_packages.clone(),
            psks: self.psks.clone(),
            signer: self.signer.clone(),
            next_signer: None,
            client: self.client.clone(),
            group: Some(group),
            suite: self.suite,
            ended: false,
        }
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
            suite: 0,
            ended: false,
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
                let applied = |epoch: &NewEpoch| epoch.applied_proposals().iter().map(|p| convert::seen(&p.proposal)).collect();
                let (kind, proposals) = match &c.effect {
                    CommitEffect::NewEpoch(epoch) => ("commit", applied(epoch)),
                    CommitEffect::Removed { new_epoch, .. } => ("removed", applied(new_epoch)),
                    CommitEffect::ReInit(_) => {
                        self.ended = true;
                        ("commit", vec![convert::opaque(protocol::REINIT)])
                    }
                };
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
            protocol::PSK => match p.epoch {
                Some(epoch) => group.propose_resumption_psk(epoch, aad),
                None => group.propose_external_psk(ExternalPskId::new(p.psk.0), aad),
            },
            protocol::REINIT => {
                group.propose_reinit(Some(p.group.0), ProtocolVersion::MLS_10, p.suite.into(), convert::extensions(&p.extensions), aad)
            }
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
                protocol::PSK => match p.epoch {
                    Some(epoch) => builder.add_resumption_psk(epoch).map_err(err)?,
                    None => builder.add_external_psk(ExternalPskId::new(p.psk.0)).map_err(err)?,
                },
                protocol::REINIT => {
                    let list = convert::extensions(&p.extensions);
                    builder.reinit(Some(p.group.0), ProtocolVersion::MLS_10, p.suite.into(), list).map_err(err)?
                }
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
        let done = self.group()?.apply_pending_commit().map_err(err)?;
        self.ended = matches!(done.effect, CommitEffect::ReInit(_));
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

    fn make_signer(&mut self, p: Profile) -> Result<Vec<u8>> {
        Ok(self.identity(&p)?.1.signature_key.to_vec())
    }

    fn propose_join(&mut self, p: Profile, group_info: Vec<u8>, tree: Vec<u8>) -> Result<Vec<u8>> {
        let (tree, leaf) = (ExportedTree::from_bytes(&tree).map_err(err)?, convert::extensions(&p.leaf));
        let client = self.client(&p)?;
        let message = client.external_add_proposal(&parse(&group_info)?, Some(tree), vec![], ExtensionList::new(), leaf, None);
        message.map_err(err)?.to_bytes().map_err(err)
    }

    fn propose_external(&mut self, group_info: Vec<u8>, tree: Vec<u8>, _: u32, p: protocol::Proposal) -> Result<Vec<u8>> {
        let (secret, identity) = self.signer.clone().ok_or("no signature key")?;
        let client = ExternalClient::builder()
            .crypto_provider(AwsLcCryptoProvider::default())
            .identity_provider(Anyone(vec![identity.credential.credential_type()]))
            .signer(secret, identity)
            .build();
        let tree = ExportedTree::from_bytes(&tree).map_err(err)?;
        let mut group = client.observe_group(parse(&group_info)?, Some(tree), None).map_err(err)?;
        let message = match p.kind {
            protocol::ADD => group.propose_add(parse(&p.key_package.0)?, vec![]),
            protocol::REMOVE => group.propose_remove(p.removed, vec![]),
            protocol::PSK => match p.epoch {
                Some(epoch) => group.propose_resumption_psk(epoch, vec![]),
                None => group.propose_external_psk(ExternalPskId::new(p.psk.0), vec![]),
            },
            protocol::REINIT => {
                group.propose_reinit(Some(p.group.0), ProtocolVersion::MLS_10, p.suite.into(), convert::extensions(&p.extensions), vec![])
            }
            protocol::GROUP_CONTEXT_EXTENSIONS => group.propose_group_context_extensions(convert::extensions(&p.extensions), vec![]),
            _ => return Err("no proposal of an external sender".into()),
        };
        message.map_err(err)?.to_bytes().map_err(err)
    }

    fn found(&mut self, p: Profile, group: Vec<u8>, key_packages: Vec<Vec<u8>>) -> Result<(Self, Vec<u8>)> {
        self.rules.set(Options::default());
        self.identity(&p)?;
        let key_packages = key_packages.iter().map(|k| parse(k)).collect::<Result<Vec<_>>>()?;
        let made = if self.ended {
            self.successor()?.commit(key_packages, convert::extensions(&p.leaf), None)
        } else {
            self.group()?.branch(group, key_packages, None)
        };
        let (group, welcomes) = made.map_err(err)?;
        let welcome = welcomes.first().ok_or("no Welcome")?.to_bytes().map_err(err)?;
        Ok((self.heir(group), welcome))
    }

    fn join_next(&mut self, welcome: Vec<u8>, tree: Vec<u8>) -> Result<Self> {
        let (welcome, tree) = (parse(&welcome)?, Some(ExportedTree::from_bytes(&tree).map_err(err)?));
        let joined = if self.ended { self.successor()?.join(&welcome, tree, None) } else { self.group()?.join_subgroup(&welcome, tree, None) };
        let (group, _) = joined.map_err(err)?;
        Ok(self.heir(group))
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
