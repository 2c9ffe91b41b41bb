// ts-mls as a peer: a JSON object a line in, one out, byte strings in base64. README.md of test/interop describes the protocol.
import { createInterface } from "node:readline";
import {
  branchGroup, bytesToBase64, base64ToBytes, ciphersuites, createApplicationMessage, createCommit, createGroup, createGroupInfoWithExternalPub,
  createGroupInfoWithExternalPubAndRatchetTree, createProposal, decode, defaultProposalTypes, encode, generateKeyPackageWithKey, getCiphersuiteImpl,
  joinGroupExternal, joinGroupFromBranch, joinGroupFromReinit, joinGroupWithExtensions, makeCustomExtension, mlsExporter, mlsMessageDecoder,
  mlsMessageEncoder, nodeTypes, processPrivateMessage, processPublicMessage, proposeAddExternal, pskTypes, reinitCreateNewGroup, resumptionPSKUsages,
  wireformats,
} from "ts-mls";
import { p256, p384, p521 } from "@noble/curves/nist.js";
// The package exports neither; an out-of-band tree needs both.
import { ratchetTreeDecoder, ratchetTreeEncoder } from "./node_modules/ts-mls/dist/src/ratchetTree.js";
import { groupContextExtensionDecoder, extensionEncoder } from "./node_modules/ts-mls/dist/src/extension.js";

const version = 1;
const names = Object.fromEntries(Object.entries(ciphersuites).map(([name, id]) => [id, name]));
const suites = {};
const suite = async (id) => (suites[id] ??= await getCiphersuiteImpl(names[id]));

// signatureKey makes a key. The library writes ECDSA's public keys compressed, where RFC 9420 §5.1.1 has them uncompressed; it reads both.
const curves = { 2: p256, 5: p521, 7: p384 };
const signatureKey = async ({ id, signature }) => {
  const { signKey, publicKey } = await signature.keygen();
  return { signKey, publicKey: curves[id] ? curves[id].Point.fromBytes(publicKey).toBytes(false) : publicKey };
};

const bytes = (b64) => base64ToBytes(b64 ?? "");
const b64 = bytesToBase64;
const read = (text) => {
  const m = decode(mlsMessageDecoder, bytes(text));
  if (m === undefined) throw new Error("the message does not decode");
  return m;
};
const write = (m) => b64(encode(mlsMessageEncoder, m));

// vector is opaque<V> of less than 16 KiB.
const vector = (content) => {
  if (content.length > 0x3fff) throw new Error("too long");
  const head = content.length < 64 ? [content.length] : [0x40 | (content.length >> 8), content.length & 0xff];
  return Uint8Array.from([...head, ...content]);
};

// extension makes one extension of those that the application may give. GroupContext extensions that the library knows are parsed.
const extension = ({ type, data }) => makeCustomExtension({ extensionType: type, extensionData: bytes(data) });
const extensions = (list) => (list ?? []).map(extension);
const contextExtensions = (list) =>
  (list ?? []).map(({ type, data }) => decode(groupContextExtensionDecoder, Uint8Array.from([type >> 8, type & 0xff, ...vector(bytes(data))])));
// shown is an extension's bytes, whether the library parsed it or not: type, then opaque<V>.
const shown = (e) => {
  if (e.extensionData instanceof Uint8Array) return { type: e.extensionType, data: b64(e.extensionData) };
  const wire = encode(extensionEncoder, e);
  const header = 2 + (1 << (wire[2] >> 6));
  return { type: e.extensionType, data: b64(wire.slice(header)) };
};

const shownCredential = (c) => ({ type: c.credentialType, body: b64(c.credentialType === 1 ? c.identity : c.data) });

class Member {
  psks = {};

  get context() {
    return {
      cipherSuite: this.suite, authService: { validateCredential: async () => true }, externalPsks: this.psks,
    };
  }

  // The content of external_pub is an HPKEPublicKey, which has a length of its own (RFC 9420 §12.4.3.2). The library writes and reads the bare key. These
  // suites put that right: the one for making a GroupInfo, the other for an external commit.
  get suiteThatExports() {
    const { hpke } = this.suite;
    return { ...this.suite, hpke: { ...hpke, exportPublicKey: async (key) => vector(await hpke.exportPublicKey(key)) } };
  }

  get suiteThatImports() {
    const { hpke } = this.suite;
    const bare = (key) => (key.length > this.publicKeyLength ? key.slice(1 << (key[0] >> 6)) : key);
    return { ...this.suite, hpke: { ...hpke, importPublicKey: (key) => hpke.importPublicKey(bare(key)) } };
  }

  async make({ suite: id, credential, leaf, extensions: exts, proposals, credentials, lastResort }) {
    if (this.suite?.id !== id) {
      this.suite = await suite(id);
      this.signature = await signatureKey(this.suite);
    }
    const body = bytes(credential.body);
    const kp = await generateKeyPackageWithKey({
      credential: credential.type === 1 ? { credentialType: 1, identity: body } : { credentialType: credential.type, data: body },
      capabilities: {
        versions: [version], ciphersuites: [id], extensions: exts ?? [], proposals: proposals ?? [], credentials: credentials ?? [],
      },
      extensions: lastResort ? [makeCustomExtension({ extensionType: 0x000a, extensionData: new Uint8Array() })] : [],
      leafNodeExtensions: extensions(leaf),
      signatureKeyPair: this.signature,
      cipherSuite: this.suite,
    });
    this.publicKeyLength = kp.publicPackage.initKey.length;
    return kp;
  }

  proposal(p) {
    switch (p.type) {
      case defaultProposalTypes.add:
        return { proposalType: p.type, add: { keyPackage: read(p.keyPackage).keyPackage } };
      case defaultProposalTypes.remove:
        return { proposalType: p.type, remove: { removed: p.removed ?? 0 } };
      case defaultProposalTypes.psk:
        return { proposalType: p.type, psk: { preSharedKeyId: { ...this.pskId(p), pskNonce: this.suite.rng.randomBytes(this.suite.kdf.size) } } };
      case defaultProposalTypes.reinit:
        return {
          proposalType: p.type, reinit: { groupId: bytes(p.group), version, cipherSuite: p.suite, extensions: contextExtensions(p.extensions) },
        };
      case defaultProposalTypes.group_context_extensions:
        return { proposalType: p.type, groupContextExtensions: { extensions: contextExtensions(p.extensions) } };
      case defaultProposalTypes.update:
        throw new Error("this library makes no Update proposal");
      default:
        return { proposalType: p.type, proposalData: bytes(p.body) };
    }
  }

  pskId({ psk, epoch, group }) {
    if (epoch === undefined) return { psktype: pskTypes.external, pskId: bytes(psk) };
    return { psktype: pskTypes.resumption, usage: resumptionPSKUsages.application, pskGroupId: bytes(group), pskEpoch: BigInt(epoch) };
  }

  async keyPackage({ profile }) {
    this.kp = await this.make(profile);
    return { message: write({ version, wireformat: wireformats.mls_key_package, keyPackage: this.kp.publicPackage }) };
  }

  async create({ profile, group, extensions: exts }) {
    const kp = await this.make(profile);
    this.state = await createGroup({
      context: this.context, groupId: bytes(group), keyPackage: kp.publicPackage, privateKeyPackage: kp.privatePackage,
      extensions: contextExtensions(exts),
    });
  }

  async join({ welcome, tree }) {
    const joined = await joinGroupWithExtensions({
      context: this.context, welcome: read(welcome).welcome, keyPackage: this.kp.publicPackage, privateKeys: this.kp.privatePackage,
      ratchetTree: tree ? decode(ratchetTreeDecoder, bytes(tree)) : undefined,
    });
    this.state = joined.state;
    return { extensions: joined.groupInfoExtensions.map(shown) };
  }

  async process({ message }) {
    const proposals = [];
    const m = read(message);
    // The library has one function for both, but that forgets the external PSKs of a PrivateMessage.
    const process = m.wireformat === wireformats.mls_private_message ? processPrivateMessage : processPublicMessage;
    const r = await process({
      context: this.context, state: this.state, privateMessage: m.privateMessage, publicMessage: m.publicMessage,
      callback: (incoming) => {
        for (const { proposal: p } of incoming.kind === "commit" ? incoming.proposals : [incoming.proposal]) {
          proposals.push({ type: p.proposalType, body: p.proposalData ? b64(p.proposalData) : "" });
        }
        this.seen = incoming.kind;
        return "accept";
      },
    });
    this.state = r.newState;
    if (r.kind === "applicationMessage") {
      return { kind: "application", application: b64(r.message), aad: b64(r.aad), proposals };
    }
    const removed = this.state.groupActiveState.kind === "removedFromGroup";
    return { kind: removed ? "removed" : this.seen, application: "", aad: b64(r.aad), proposals };
  }

  async send({ data, aad }) {
    const r = await createApplicationMessage({
      context: this.context, state: this.state, message: bytes(data), authenticatedData: bytes(aad),
    });
    this.state = r.newState;
    return { message: write(r.message) };
  }

  async propose({ proposal, private: sealed, aad }) {
    const r = await createProposal({
      context: this.context, state: this.state, wireAsPublicMessage: !sealed, proposal: this.proposal(proposal), authenticatedData: bytes(aad),
    });
    this.state = r.newState;
    return { message: write(r.message) };
  }

  // commit ignores path: the library makes one with every commit that may have one. resumingFromState is where the library looks for resumption PSKs, not
  // documented but for the founding of groups.
  async commit({ proposals, private: sealed, aad, withTree, welcomeExtensions, leaf, rotate }) {
    if (leaf || rotate) throw new Error("this library does not change its leaf");
    const r = await createCommit({
      context: this.context, state: this.state, resumingFromState: this.state, wireAsPublicMessage: !sealed, extraProposals: (proposals ?? []).map((p) => this.proposal(p)),
      authenticatedData: bytes(aad), ratchetTreeExtension: withTree ?? false, groupInfoExtensions: extensions(welcomeExtensions),
    });
    this.next = r.newState;
    return { message: write(r.commit), welcome: r.welcome ? write(r.welcome) : undefined };
  }

  merge() {
    this.state = this.next;
  }

  discard() {
    this.next = undefined;
  }

  async groupInfo({ withTree, extensions: exts }) {
    const make = withTree ? createGroupInfoWithExternalPubAndRatchetTree : createGroupInfoWithExternalPub;
    const groupInfo = await make(this.state, extensions(exts), this.suiteThatExports);
    return { message: write({ version, wireformat: wireformats.mls_group_info, groupInfo }) };
  }

  tree() {
    return { tree: b64(encode(ratchetTreeEncoder, this.state.ratchetTree)) };
  }

  async externalJoin({ profile, groupInfo, tree, resync, psks, proposals, pending, aad }) {
    if (psks?.length || proposals?.length || pending?.length) throw new Error("this library takes no proposal into an external commit");
    const kp = await this.make(profile);
    const r = await joinGroupExternal({
      context: { ...this.context, cipherSuite: this.suiteThatImports }, groupInfo: read(groupInfo).groupInfo, keyPackage: kp.publicPackage, privateKeys: kp.privatePackage,
      resync: resync !== undefined && resync !== null, tree: tree ? decode(ratchetTreeDecoder, bytes(tree)) : undefined,
      authenticatedData: bytes(aad),
    });
    this.state = r.newState;
    return { message: write({ version, wireformat: wireformats.mls_public_message, publicMessage: r.publicMessage }) };
  }

  async proposeJoin({ profile, groupInfo }) {
    this.kp = await this.make(profile);
    return { message: write(await proposeAddExternal(read(groupInfo).groupInfo, this.kp.publicPackage, this.kp.privatePackage, this.suite)) };
  }

  // heir is the same client in another group.
  heir(state) {
    return Object.assign(new Member(), {
      psks: this.psks, suite: this.suite, signature: this.signature, publicKeyLength: this.publicKeyLength, state,
    });
  }

  // found makes the successor of a group that a ReInit has ended, or else a branch.
  async found({ as, profile, group, keyPackages }) {
    const kp = await this.make(profile);
    const params = {
      context: this.context, state: this.state, keyPackage: kp.publicPackage, privateKeyPackage: kp.privatePackage,
      memberKeyPackages: (keyPackages ?? []).map((k) => read(k).keyPackage),
    };
    const { reinit } = this.state.groupActiveState;
    const made = reinit
      ? await reinitCreateNewGroup({ ...params, groupId: reinit.groupId, cipherSuite: names[reinit.cipherSuite], extensions: reinit.extensions })
      : await branchGroup({ ...params, newGroupId: bytes(group) });
    members.set(as, this.heir(made.newState));
    return { welcome: write(made.welcome) };
  }

  async joinNext({ as, welcome, tree }) {
    const params = {
      context: this.context, welcome: read(welcome).welcome, keyPackage: this.kp.publicPackage, privateKeyPackage: this.kp.privatePackage,
      ratchetTree: decode(ratchetTreeDecoder, bytes(tree)),
    };
    const state = this.state.groupActiveState.reinit
      ? await joinGroupFromReinit({ ...params, suspendedState: this.state })
      : await joinGroupFromBranch({ ...params, oldState: this.state });
    members.set(as, this.heir(state));
  }

  psk({ id, secret }) {
    this.psks[id] = bytes(secret);
  }

  async export({ label, context, length }) {
    const secret = await mlsExporter(this.state.keySchedule.exporterSecret, label, bytes(context), length, this.suite);
    return { secret: b64(secret) };
  }

  status() {
    const { groupContext, keySchedule, ratchetTree, privatePath } = this.state;
    const members = [];
    for (let i = 0; i < ratchetTree.length; i += 2) {
      const n = ratchetTree[i];
      if (n?.nodeType === nodeTypes.leaf) members.push({ leaf: i / 2, credential: shownCredential(n.leaf.credential) });
    }
    return {
      epoch: Number(groupContext.epoch), authenticator: b64(keySchedule.epochAuthenticator), treeHash: b64(groupContext.treeHash),
      leaf: privatePath.leafIndex, members, extensions: groupContext.extensions.map(shown),
    };
  }
}

const members = new Map();

async function answer({ op, member = 0, ...args }) {
  if (op === "hello") {
    return {
      name: "ts-mls 2.0.0-rc.10", suites: [1, 2, 3, 4, 5, 6, 7, 0xf00d],
      lacks: [
        "update", "commitPath", "ownRemoval", "unmergedLeaves", "selfRemove", "leafChange", "externalCommitPSK", "externalCommitCustomProposal",
        "externalCommitSelfRemove", "externalSenders", "externalSenderPSK", "successorRequirements",
      ],
    };
  }
  if (op === "drop") return void members.delete(member);
  if (!members.has(member)) members.set(member, new Member());
  return members.get(member)[op](args);
}

for await (const line of createInterface({ input: process.stdin })) {
  let out;
  try {
    out = { ok: (await answer(JSON.parse(line))) ?? null };
  } catch (e) {
    out = { error: String(e?.stack ?? e) };
  }
  process.stdout.write(JSON.stringify(out) + "\n");
}
