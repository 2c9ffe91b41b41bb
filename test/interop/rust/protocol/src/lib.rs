//! The protocol between the interoperability tests and a peer: one JSON object a line in, one out, byte strings in base64. README.md of test/interop describes it.

pub mod bench;
pub mod wire;

use std::collections::HashMap;
use std::io::{BufRead, Write};
use std::panic::{AssertUnwindSafe, catch_unwind};

use serde_json::{Value, json};

pub use wire::*;

/// What went wrong, in the words of the library under test. It goes to the test, which shows it.
pub type Result<T> = std::result::Result<T, String>;

/// err makes any error of a library the text that is answered.
pub fn err<E: std::fmt::Debug>(e: E) -> String {
    format!("{e:?}")
}

/// One client with at most one group. Methods are the protocol's operations.
pub trait Member: Sized {
    fn new() -> Result<Self>;
    fn key_package(&mut self, profile: Profile) -> Result<Vec<u8>>;
    fn create(&mut self, profile: Profile, group: Vec<u8>, extensions: Vec<Extension>) -> Result<()>;
    fn join(&mut self, welcome: Vec<u8>, tree: Option<Vec<u8>>) -> Result<Vec<Extension>>;
    fn process(&mut self, message: Vec<u8>) -> Result<Processed>;
    fn send(&mut self, data: Vec<u8>, aad: Vec<u8>) -> Result<Vec<u8>>;
    fn propose(&mut self, proposal: Proposal, private: bool, aad: Vec<u8>) -> Result<Vec<u8>>;
    fn commit(&mut self, commit: Commit) -> Result<Committed>;
    fn merge(&mut self) -> Result<()>;
    fn discard(&mut self) -> Result<()>;
    fn group_info(&mut self, tree: bool, extensions: Vec<Extension>) -> Result<Vec<u8>>;
    fn tree(&mut self) -> Result<Vec<u8>>;
    fn external_join(&mut self, join: ExternalJoin) -> Result<Vec<u8>>;
    /// make_signer makes a signature key for an external sender and returns the public key.
    fn make_signer(&mut self, profile: Profile) -> Result<Vec<u8>>;
    fn propose_join(&mut self, profile: Profile, group_info: Vec<u8>, tree: Vec<u8>) -> Result<Vec<u8>>;
    fn propose_external(&mut self, group_info: Vec<u8>, tree: Vec<u8>, sender: u32, proposal: Proposal) -> Result<Vec<u8>>;
    /// found makes the successor of a group that a ReInit has ended, or else a branch, and returns its first member and the Welcome.
    fn found(&mut self, profile: Profile, group: Vec<u8>, key_packages: Vec<Vec<u8>>) -> Result<(Self, Vec<u8>)>;
    fn join_next(&mut self, welcome: Vec<u8>, tree: Vec<u8>) -> Result<Self>;
    fn psk(&mut self, id: Vec<u8>, secret: Vec<u8>) -> Result<()>;
    fn export(&mut self, label: String, context: Vec<u8>, length: usize) -> Result<Vec<u8>>;
    fn status(&mut self) -> Result<Status>;
}

/// serve answers requests until standard input ends.
pub fn serve<M: Member>(hello: Hello) -> std::io::Result<()> {
    let mut members: HashMap<u32, M> = HashMap::new();
    let mut out = std::io::stdout().lock();
    for line in std::io::stdin().lock().lines() {
        let line = line?;
        let answer = catch_unwind(AssertUnwindSafe(|| answer(&mut members, &hello, &line)))
            .unwrap_or_else(|_| Err("panic: standard error has the text".into()));
        let answer = match answer {
            Ok(ok) => json!({ "ok": ok }),
            Err(error) => json!({ "error": error }),
        };
        writeln!(out, "{answer}")?;
        out.flush()?;
    }
    Ok(())
}

fn answer<M: Member>(members: &mut HashMap<u32, M>, hello: &Hello, line: &str) -> Result<Value> {
    let request: Request = serde_json::from_str(line).map_err(err)?;
    if let Op::Hello = request.op {
        return serde_json::to_value(hello).map_err(err);
    }
    if let Op::Drop = request.op {
        members.remove(&request.member);
        return Ok(Value::Null);
    }
    if !members.contains_key(&request.member) {
        members.insert(request.member, M::new()?);
    }
    let Some(m) = members.get_mut(&request.member) else {
        return Err("no such member".into());
    };
    let message = |b: Vec<u8>| json!({ "message": Bytes(b) });
    Ok(match request.op {
        Op::Hello | Op::Drop => Value::Null,
        Op::KeyPackage { profile } => message(m.key_package(profile)?),
        Op::Create { profile, group, extensions } => json!(m.create(profile, group.0, extensions)?),
        Op::Join { welcome, tree } => json!({ "extensions": m.join(welcome.0, tree.map(|t| t.0))? }),
        Op::Process { message } => json!(m.process(message.0)?),
        Op::Send { data, aad } => message(m.send(data.0, aad.0)?),
        Op::Propose { proposal, private, aad } => message(m.propose(proposal, private, aad.0)?),
        Op::Commit(commit) => json!(m.commit(commit)?),
        Op::Merge => json!(m.merge()?),
        Op::Discard => json!(m.discard()?),
        Op::GroupInfo { with_tree, extensions } => message(m.group_info(with_tree, extensions)?),
        Op::Tree => json!({ "tree": Bytes(m.tree()?) }),
        Op::ExternalJoin(join) => message(m.external_join(join)?),
        Op::Signer { profile } => json!({ "key": Bytes(m.make_signer(profile)?) }),
        Op::ProposeJoin { profile, group_info, tree } => message(m.propose_join(profile, group_info.0, tree.0)?),
        Op::ProposeExternal { group_info, tree, sender, proposal } => message(m.propose_external(group_info.0, tree.0, sender, proposal)?),
        Op::Found { heir, profile, group, key_packages } => {
            let (next, welcome) = m.found(profile, group.0, key_packages.into_iter().map(|k| k.0).collect())?;
            members.insert(heir, next);
            json!({ "welcome": Bytes(welcome) })
        }
        Op::JoinNext { heir, welcome, tree } => {
            let next = m.join_next(welcome.0, tree.0)?;
            members.insert(heir, next);
            Value::Null
        }
        Op::Psk { id, secret } => json!(m.psk(id.0, secret.0)?),
        Op::Export { label, context, length } => json!({ "secret": Bytes(m.export(label, context.0, length)?) }),
        Op::Status => json!(m.status()?),
    })
}
