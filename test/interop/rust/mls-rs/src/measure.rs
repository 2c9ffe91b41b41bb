//! The benchmark: the work of pkg/mls's benchmarks, in suite 1.

use mls_rs::client_builder::{BaseConfig, MlsConfig, WithCryptoProvider, WithIdentityProvider, WithMlsRules};
use mls_rs::group::{ExportedTree, ReceivedMessage};
use mls_rs::identity::basic::BasicCredential;
use mls_rs::identity::{CredentialType, SigningIdentity};
use mls_rs::{CipherSuite, CipherSuiteProvider, Client, CryptoProvider, ExtensionList, Group, MlsMessage};
use mls_rs_crypto_awslc::AwsLcCryptoProvider;
use mls_rs_crypto_rustcrypto::RustCryptoProvider;
use protocol::bench::{Bench, MESSAGE_GROUP};

use crate::policy::{Anyone, Options, Rules};

const SUITE: CipherSuite = CipherSuite::CURVE25519_AES128;

type Config<P> = WithMlsRules<Rules, WithIdentityProvider<Anyone, WithCryptoProvider<P, BaseConfig>>>;

pub fn run() -> std::io::Result<()> {
    let mut bench = Bench::from_args().map_err(std::io::Error::other)?;
    bench.provider = "awslc";
    measure(&bench, &AwsLcCryptoProvider::default());
    bench.provider = "rustcrypto";
    measure(&bench, &RustCryptoProvider::default());
    Ok(())
}

/// client makes a client whose commits have a path if asked to, and whose handshakes are PublicMessages without the tree.
fn client<P: CryptoProvider + Clone>(crypto: &P, name: &str, path: bool) -> Client<Config<P>> {
    let (secret, public) = crypto.cipher_suite_provider(SUITE).unwrap().signature_key_generate().unwrap();
    let identity = SigningIdentity::new(BasicCredential::new(name.as_bytes().to_vec()).into_credential(), public);
    let rules = Rules::default();
    rules.set(Options { path, ..Options::default() });
    Client::builder()
        .crypto_provider(crypto.clone())
        .identity_provider(Anyone(vec![CredentialType::BASIC]))
        .mls_rules(rules)
        .signing_identity(identity, secret, SUITE)
        .build()
}

fn key_package<C: MlsConfig>(client: &Client<C>) -> Vec<u8> {
    client.generate_key_package_message(ExtensionList::new(), ExtensionList::new(), None).unwrap().to_bytes().unwrap()
}

fn create<C: MlsConfig>(client: &Client<C>) -> Group<C> {
    client.create_group(ExtensionList::new(), ExtensionList::new(), None).unwrap()
}

/// add makes one commit that adds others, with the Welcome.
fn add<C: MlsConfig>(group: &mut Group<C>, packages: &[Vec<u8>]) -> (Vec<u8>, Vec<u8>) {
    let mut builder = group.commit_builder();
    for p in packages {
        builder = builder.add_member(MlsMessage::from_bytes(p).unwrap()).unwrap();
    }
    let output = builder.build().unwrap();
    (output.commit_message.to_bytes().unwrap(), output.welcome_messages[0].to_bytes().unwrap())
}

/// commit makes a commit with a path and nothing else.
fn commit<C: MlsConfig>(group: &mut Group<C>) -> Vec<u8> {
    group.commit_builder().build().unwrap().commit_message.to_bytes().unwrap()
}

fn join<C: MlsConfig>(client: &Client<C>, welcome: &[u8], tree: &[u8]) -> Group<C> {
    let tree = ExportedTree::from_bytes(tree).unwrap();
    client.join_group(Some(tree), &MlsMessage::from_bytes(welcome).unwrap(), None).unwrap().0
}

fn external_join<C: MlsConfig>(client: &Client<C>, info: &[u8], tree: &[u8]) -> (Group<C>, Vec<u8>) {
    let builder = client.external_commit_builder().unwrap().with_tree_data(ExportedTree::from_bytes(tree).unwrap());
    let (group, message) = builder.build(MlsMessage::from_bytes(info).unwrap()).unwrap();
    (group, message.to_bytes().unwrap())
}

fn process<C: MlsConfig>(group: &mut Group<C>, message: &[u8]) -> ReceivedMessage {
    group.process_incoming_message(MlsMessage::from_bytes(message).unwrap()).unwrap()
}

fn info<C: MlsConfig>(group: &Group<C>) -> Vec<u8> {
    group.group_info_message_allowing_ext_commit(false).unwrap().to_bytes().unwrap()
}

/// A group with its creator and the member beside it.
struct World<P: CryptoProvider + Clone> {
    alices: Group<Config<P>>,
    bob: Client<Config<P>>,
    bobs: Group<Config<P>>,
    welcome: Vec<u8>,
    tree: Vec<u8>,
}

/// bare is a group of n by one commit without a path: all parents are blank.
fn bare<P: CryptoProvider + Clone>(crypto: &P, n: usize) -> World<P> {
    let bob = client(crypto, "bob", true);
    let mut packages = vec![key_package(&bob)];
    packages.extend((2..n).map(|i| key_package(&client(crypto, &format!("client {i}"), true))));
    let mut alices = create(&client(crypto, "alice", false));
    let (_, welcome) = add(&mut alices, &packages);
    alices.apply_pending_commit().unwrap();
    let tree = alices.export_tree().to_bytes().unwrap();
    let bobs = join(&bob, &welcome, &tree);
    World { alices, bob, bobs, welcome, tree }
}

/// warm is a group of n in which all but the creator joined by external commits: all parents are filled.
fn warm<P: CryptoProvider + Clone>(crypto: &P, n: usize) -> World<P> {
    let mut w = bare(crypto, 2);
    for i in 2..n {
        let (info, before) = (info(&w.alices), w.alices.export_tree().to_bytes().unwrap());
        let (_, message) = external_join(&client(crypto, &format!("client {i}"), true), &info, &before);
        process(&mut w.alices, &message);
        process(&mut w.bobs, &message);
    }
    w
}

/// primitives measures what all else is made of, by itself.
fn primitives<P: CryptoProvider>(b: &Bench, crypto: &P) {
    let suite = crypto.cipher_suite_provider(SUITE).unwrap();
    let (secret, public) = suite.kem_derive(&[1; 32]).unwrap();
    let (info, text) = ([0; 200], [0; 32]);
    b.row("Seal", None, || (), |()| suite.hpke_seal(&public, &info, None, &text).unwrap());
    let sealed = suite.hpke_seal(&public, &info, None, &text).unwrap();
    b.row("Open", None, || (), |()| suite.hpke_open(&sealed, &secret, &public, &info, None).unwrap());
    b.row("DeriveKeyPair", None, || (), |()| suite.kem_derive(&[1; 32]).unwrap());
    let (secret, public) = suite.signature_key_generate().unwrap();
    let content = [0; 400];
    b.row("Sign", None, || (), |()| suite.sign(&secret, &content).unwrap());
    let signature = suite.sign(&secret, &content).unwrap();
    b.row("Verify", None, || (), |()| suite.verify(&public, &signature, &content).unwrap());
}

fn measure<P: CryptoProvider + Clone>(b: &Bench, crypto: &P) {
    primitives(b, crypto);
    b.row("Create", None, || client(crypto, "alice", false), |c| create(&c));
    if b.wants(&["Encrypt", "Decrypt"]) {
        messages(b, crypto);
    }
    for &n in &b.sizes {
        if b.wants(&["Add"]) {
            let packages: Vec<_> = (1..n).map(|i| key_package(&client(crypto, &format!("client {i}"), true))).collect();
            let alice = client(crypto, "alice", false);
            b.row("Add", Some(n), || create(&alice), |mut group| add(&mut group, &packages));
        }
        if b.wants(&["Join", "Commit", "Process", "ExternalJoin", "ProcessExternal"]) {
            bare_rows(b, crypto, n);
        }
        if b.wants(&["CommitWarm", "ProcessWarm"]) {
            let mut w = warm(crypto, n);
            let message = handshakes(b, &mut w, n, "CommitWarm");
            b.row("ProcessWarm", Some(n), || w.bobs.clone(), |mut group| process(&mut group, &message));
        }
    }
}

fn messages<P: CryptoProvider + Clone>(b: &Bench, crypto: &P) {
    let text = [0; 200];
    let encrypt = |group: &mut Group<Config<P>>| group.encrypt_application_message(&text, vec![]).unwrap().to_bytes().unwrap();
    let mut w = bare(crypto, MESSAGE_GROUP);
    b.row("Encrypt", None, || (), |()| encrypt(&mut w.alices));
    let mut w = bare(crypto, MESSAGE_GROUP);
    b.row("Decrypt", None, || encrypt(&mut w.alices), |message| process(&mut w.bobs, &message));
}

fn bare_rows<P: CryptoProvider + Clone>(b: &Bench, crypto: &P, n: usize) {
    let mut w = bare(crypto, n);
    let info = info(&w.alices);
    b.row("ExternalJoin", Some(n), || client(crypto, "external", true), |c| external_join(&c, &info, &w.tree));
    let message = external_join(&client(crypto, "external", true), &info, &w.tree).1;
    b.row("ProcessExternal", Some(n), || w.bobs.clone(), |mut group| process(&mut group, &message));
    let message = handshakes(b, &mut w, n, "Commit");
    b.row("Process", Some(n), || w.bobs.clone(), |mut group| process(&mut group, &message));
    b.row("Join", Some(n), || (), |()| join(&w.bob, &w.welcome, &w.tree));
}

/// handshakes measures a path commit, which an empty one has without being asked to, and returns one that is good.
fn handshakes<P: CryptoProvider + Clone>(b: &Bench, w: &mut World<P>, n: usize, name: &str) -> Vec<u8> {
    let group = std::cell::RefCell::new(&mut w.alices);
    b.row(name, Some(n), || group.borrow_mut().clear_pending_commit(), |()| commit(*group.borrow_mut()));
    let group = group.into_inner();
    group.clear_pending_commit();
    commit(group)
}
