//! The benchmark: the work of pkg/mls's benchmarks, in suite 1, with the storage that the library's authors ship, which keeps all in memory.

use openmls::prelude::tls_codec::{Deserialize, Serialize};
use openmls::prelude::*;
use openmls_basic_credential::SignatureKeyPair;
use openmls_rust_crypto::OpenMlsRustCrypto;
use protocol::bench::{Bench, MESSAGE_GROUP};

const SUITE: Ciphersuite = Ciphersuite::MLS_128_DHKEMX25519_AES128GCM_SHA256_Ed25519;

pub fn run() -> std::io::Result<()> {
    let mut bench = Bench::from_args().map_err(std::io::Error::other)?;
    bench.provider = "libcrux";
    measure(&bench, openmls_libcrux_crypto::Provider::default);
    bench.provider = "rustcrypto";
    measure(&bench, OpenMlsRustCrypto::default);
    Ok(())
}

/// A client with its storage.
struct Client<P: OpenMlsProvider> {
    provider: P,
    signer: SignatureKeyPair,
    identity: CredentialWithKey,
}

impl<P: OpenMlsProvider> Client<P> {
    fn new(provider: P, name: &str) -> Self {
        let signer = SignatureKeyPair::new(SUITE.signature_algorithm()).unwrap();
        let identity = CredentialWithKey { credential: BasicCredential::new(name.as_bytes().to_vec()).into(), signature_key: signer.public().into() };
        Client { provider, signer, identity }
    }

    fn create(&self) -> MlsGroup {
        MlsGroup::builder()
            .ciphersuite(SUITE)
            .with_wire_format_policy(PURE_PLAINTEXT_WIRE_FORMAT_POLICY)
            .build(&self.provider, &self.signer, self.identity.clone())
            .unwrap()
    }

    /// key_package makes one of last resort, which is not used up by a join that is repeated.
    fn key_package(&self) -> Vec<u8> {
        let capabilities = Capabilities::new(None, Some(&[SUITE]), Some(&[ExtensionType::LastResort]), None, None);
        let bundle = KeyPackage::builder()
            .leaf_node_capabilities(capabilities)
            .mark_as_last_resort()
            .build(SUITE, &self.provider, &self.signer, self.identity.clone())
            .unwrap();
        MlsMessageOut::from(bundle.into_key_package()).to_bytes().unwrap()
    }

    /// add makes one commit that adds others, with the Welcome.
    fn add(&self, group: &mut MlsGroup, packages: &[Vec<u8>]) -> (Vec<u8>, Vec<u8>) {
        let crypto = self.provider.crypto();
        let packages = packages.iter().map(|p| crate::convert::key_package(&self.provider, p).unwrap());
        let bundle = group
            .commit_builder()
            .propose_adds(packages)
            .load_psks(self.provider.storage())
            .unwrap()
            .build(self.provider.rand(), crypto, &self.signer, |_| true)
            .unwrap()
            .stage_commit(&self.provider)
            .unwrap();
        let (commit, welcome, _) = bundle.into_messages();
        (commit.to_bytes().unwrap(), welcome.unwrap().to_bytes().unwrap())
    }

    /// commit makes a commit with a path and nothing else.
    fn commit(&self, group: &mut MlsGroup) -> Vec<u8> {
        let bundle = group
            .commit_builder()
            .force_self_update(true)
            .load_psks(self.provider.storage())
            .unwrap()
            .build(self.provider.rand(), self.provider.crypto(), &self.signer, |_| true)
            .unwrap()
            .stage_commit(&self.provider)
            .unwrap();
        bundle.into_commit().to_bytes().unwrap()
    }

    fn join(&self, welcome: &[u8], tree: &[u8]) -> MlsGroup {
        let MlsMessageBodyIn::Welcome(welcome) = MlsMessageIn::tls_deserialize_exact(welcome).unwrap().extract() else { unreachable!() };
        let config = MlsGroupJoinConfig::builder().wire_format_policy(PURE_PLAINTEXT_WIRE_FORMAT_POLICY).build();
        let opened = ProcessedWelcome::new_from_welcome(&self.provider, &config, welcome).unwrap();
        JoinBuilder::new(&self.provider, opened)
            .replace_old_group()
            .with_ratchet_tree(RatchetTreeIn::tls_deserialize_exact(tree).unwrap())
            .build()
            .unwrap()
            .into_group(&self.provider)
            .unwrap()
    }

    fn external_join(&self, info: &[u8], tree: &[u8]) -> (MlsGroup, Vec<u8>) {
        let MlsMessageBodyIn::GroupInfo(info) = MlsMessageIn::tls_deserialize_exact(info).unwrap().extract() else { unreachable!() };
        let config = MlsGroupJoinConfig::builder().wire_format_policy(PURE_PLAINTEXT_WIRE_FORMAT_POLICY).build();
        let (group, bundle) = MlsGroup::external_commit_builder()
            .with_config(config)
            .with_ratchet_tree(RatchetTreeIn::tls_deserialize_exact(tree).unwrap())
            .build_group(&self.provider, info, self.identity.clone())
            .unwrap()
            .load_psks(self.provider.storage())
            .unwrap()
            .build(self.provider.rand(), self.provider.crypto(), &self.signer, |_| true)
            .unwrap()
            .finalize(&self.provider)
            .unwrap();
        (group, bundle.into_commit().to_bytes().unwrap())
    }

    fn process(&self, group: &mut MlsGroup, message: &[u8]) -> ProcessedMessageContent {
        let message = MlsMessageIn::tls_deserialize_exact(message).unwrap().try_into_protocol_message().unwrap();
        group.process_message(&self.provider, message).unwrap().into_content()
    }

    fn follow(&self, group: &mut MlsGroup, message: &[u8]) {
        let ProcessedMessageContent::StagedCommitMessage(staged) = self.process(group, message) else { unreachable!() };
        group.merge_staged_commit(&self.provider, *staged).unwrap();
    }

    fn info(&self, group: &MlsGroup) -> Vec<u8> {
        group.export_group_info(self.provider.crypto(), &self.signer, false).unwrap().to_bytes().unwrap()
    }
}

fn tree(group: &MlsGroup) -> Vec<u8> {
    group.export_ratchet_tree().tls_serialize_detached().unwrap()
}

/// A group with its creator and the member beside it.
struct World<P: OpenMlsProvider> {
    alice: Client<P>,
    alices: MlsGroup,
    bob: Client<P>,
    bobs: MlsGroup,
    welcome: Vec<u8>,
    tree: Vec<u8>,
}

/// bare is a group of n by one commit without a path: all parents are blank.
fn bare<P: OpenMlsProvider>(make: fn() -> P, n: usize) -> World<P> {
    let (alice, bob) = (Client::new(make(), "alice"), Client::new(make(), "bob"));
    let mut packages = vec![bob.key_package()];
    packages.extend((2..n).map(|i| Client::new(make(), &format!("client {i}")).key_package()));
    let mut alices = alice.create();
    let (_, welcome) = alice.add(&mut alices, &packages);
    alices.merge_pending_commit(&alice.provider).unwrap();
    let tree = tree(&alices);
    let bobs = bob.join(&welcome, &tree);
    World { alice, alices, bob, bobs, welcome, tree }
}

/// warm is a group of n in which all but the creator joined by external commits: all parents are filled.
fn warm<P: OpenMlsProvider>(make: fn() -> P, n: usize) -> World<P> {
    let mut w = bare(make, 2);
    for i in 2..n {
        let (info, before) = (w.alice.info(&w.alices), tree(&w.alices));
        let (_, message) = Client::new(make(), &format!("client {i}")).external_join(&info, &before);
        w.alice.follow(&mut w.alices, &message);
        w.bob.follow(&mut w.bobs, &message);
    }
    w
}

/// primitives measures what all else is made of, by itself.
fn primitives(b: &Bench, crypto: &impl OpenMlsCrypto) {
    let key = crypto.derive_hpke_keypair(SUITE.hpke_config(), &[1; 32]).unwrap();
    let (info, text) = ([0; 200], [0; 32]);
    let seal = || crypto.hpke_seal(SUITE.hpke_config(), &key.public, &info, &[], &text).unwrap();
    b.row("Seal", None, || (), |()| seal());
    let sealed = seal();
    b.row("Open", None, || (), |()| crypto.hpke_open(SUITE.hpke_config(), &sealed, &key.private, &info, &[]).unwrap());
    b.row("DeriveKeyPair", None, || (), |()| crypto.derive_hpke_keypair(SUITE.hpke_config(), &[1; 32]).unwrap());
    let scheme = SUITE.signature_algorithm();
    let (secret, public) = crypto.signature_key_gen(scheme).unwrap();
    let content = [0; 400];
    b.row("Sign", None, || (), |()| crypto.sign(scheme, &content, &secret).unwrap());
    let signature = crypto.sign(scheme, &content, &secret).unwrap();
    b.row("Verify", None, || (), |()| crypto.verify_signature(scheme, &content, &public, &signature).unwrap());
}

fn measure<P: OpenMlsProvider>(b: &Bench, make: fn() -> P) {
    primitives(b, make().crypto());
    b.row("Create", None, || Client::new(make(), "alice"), |c| c.create());
    if b.wants(&["Encrypt", "Decrypt"]) {
        messages(b, make);
    }
    for &n in &b.sizes {
        if b.wants(&["Add"]) {
            let alice = Client::new(make(), "alice");
            let packages: Vec<_> = (1..n).map(|i| Client::new(make(), &format!("client {i}")).key_package()).collect();
            b.row("Add", Some(n), || alice_creates(&alice), |mut group| alice.add(&mut group, &packages));
        }
        if b.wants(&["Join", "Commit", "Process", "ExternalJoin", "ProcessExternal"]) {
            bare_rows(b, make, n);
        }
        if b.wants(&["CommitWarm", "ProcessWarm"]) {
            let mut w = warm(make, n);
            let message = handshakes(b, &mut w, n, "CommitWarm");
            b.row("ProcessWarm", Some(n), || (), |()| w.bob.process(&mut w.bobs, &message));
        }
    }
}

fn alice_creates<P: OpenMlsProvider>(alice: &Client<P>) -> MlsGroup {
    alice.create()
}

fn messages<P: OpenMlsProvider>(b: &Bench, make: fn() -> P) {
    let mut w = bare(make, MESSAGE_GROUP);
    let text = [0; 200];
    let mut encrypt = || w.alices.create_message(&w.alice.provider, &w.alice.signer, &text).unwrap().to_bytes().unwrap();
    b.row("Encrypt", None, || (), |()| encrypt());
    // A member that has read nothing yet does not follow a ratchet that far: both begin anew.
    let mut w = bare(make, MESSAGE_GROUP);
    let (alice, bob) = (&w.alice, &w.bob);
    let (alices, bobs) = (&mut w.alices, &mut w.bobs);
    b.row(
        "Decrypt",
        None,
        || alices.create_message(&alice.provider, &alice.signer, &text).unwrap().to_bytes().unwrap(),
        |message| bob.process(bobs, &message),
    );
}

fn bare_rows<P: OpenMlsProvider>(b: &Bench, make: fn() -> P, n: usize) {
    let mut w = bare(make, n);
    let info = w.alice.info(&w.alices);
    b.row("ExternalJoin", Some(n), || Client::new(make(), "external"), |c| c.external_join(&info, &w.tree));
    let message = Client::new(make(), "external").external_join(&info, &w.tree).1;
    b.row("ProcessExternal", Some(n), || (), |()| w.bob.process(&mut w.bobs, &message));
    let message = handshakes(b, &mut w, n, "Commit");
    b.row("Process", Some(n), || (), |()| w.bob.process(&mut w.bobs, &message));
    // Last: a join takes the place of bob's group in his storage.
    b.row("Join", Some(n), || (), |()| w.bob.join(&w.welcome, &w.tree));
}

/// handshakes measures a path commit and returns one that is good.
fn handshakes<P: OpenMlsProvider>(b: &Bench, w: &mut World<P>, n: usize, name: &str) -> Vec<u8> {
    let (alice, group) = (&w.alice, std::cell::RefCell::new(&mut w.alices));
    b.row(name, Some(n), || group.borrow_mut().clear_pending_commit(alice.provider.storage()).unwrap(), |()| alice.commit(&mut group.borrow_mut()));
    let group = group.into_inner();
    group.clear_pending_commit(alice.provider.storage()).unwrap();
    alice.commit(group)
}
