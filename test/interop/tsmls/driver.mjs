// One member that is driven over standard input and output: a JSON object a line in, one out. Byte strings are base64.
// Requests: {op, ...}; answers: {ok: ...} or {error: text}.
import { createInterface } from "node:readline";
import {
  bytesToBase64, base64ToBytes, ciphersuites, createApplicationMessage, createCommit, decode, defaultCapabilities, encode,
  generateKeyPackage, getCiphersuiteImpl, getGroupMembers, joinGroupWithExtensions, makeCustomExtension, mlsExporter,
  mlsMessageDecoder, mlsMessageEncoder, processMessage, wireformats,
} from "ts-mls";

const suite = await getCiphersuiteImpl("MLS_128_DHKEMX25519_AES128GCM_SHA256_Ed25519");
const context = { cipherSuite: suite, authService: { validateCredential: async () => true } };
let kp; // {publicPackage, privatePackage}
let state; // ClientState

const read = (b64) => {
  const m = decode(mlsMessageDecoder, base64ToBytes(b64));
  if (m === undefined) throw new Error("the message does not decode");
  return m;
};
const write = (m) => bytesToBase64(encode(mlsMessageEncoder, m));
const status = () => ({
  epoch: Number(state.groupContext.epoch),
  authenticator: bytesToBase64(state.keySchedule.epochAuthenticator),
  members: getGroupMembers(state).length,
});

const ops = {
  // keyPackage makes a KeyPackage with a custom credential and a custom leaf extension.
  async keyPackage({ credentialType, credential, extensionType, extension, capabilities }) {
    const c = defaultCapabilities();
    kp = await generateKeyPackage({
      credential: { credentialType, data: base64ToBytes(credential) },
      capabilities: {
        versions: c.versions, ciphersuites: [1],
        extensions: capabilities.extensions, proposals: capabilities.proposals, credentials: capabilities.credentials,
      },
      leafNodeExtensions: [makeCustomExtension({ extensionType, extensionData: base64ToBytes(extension) })],
      cipherSuite: suite,
    });
    return { message: write({ version: 1, wireformat: wireformats.mls_key_package, keyPackage: kp.publicPackage }) };
  },
  async join({ welcome }) {
    const joined = await joinGroupWithExtensions({
      context, welcome: read(welcome).welcome, keyPackage: kp.publicPackage, privateKeys: kp.privatePackage,
    });
    state = joined.state;
    const extensions = joined.groupInfoExtensions
      .filter((e) => e.extensionData instanceof Uint8Array)
      .map((e) => ({ type: e.extensionType, data: bytesToBase64(e.extensionData) }));
    return { ...status(), extensions };
  },
  async process({ message }) {
    const custom = [];
    const r = await processMessage({
      context, state, message: read(message),
      callback: (incoming) => {
        for (const p of incoming.kind === "commit" ? incoming.proposals : [incoming.proposal]) {
          if (p.proposal.proposalType > 0xf000) {
            custom.push({ type: p.proposal.proposalType, data: bytesToBase64(p.proposal.proposalData) });
          }
        }
        return "accept";
      },
    });
    state = r.newState;
    const message_ = r.kind === "applicationMessage" ? bytesToBase64(r.message) : undefined;
    return { ...status(), kind: r.kind, application: message_, custom };
  },
  async send({ text }) {
    const r = await createApplicationMessage({ context, state, message: base64ToBytes(text) });
    state = r.newState;
    return { message: write(r.message) };
  },
  async commit({ proposalType, proposal }) {
    const extra = proposalType ? [{ proposalType, proposalData: base64ToBytes(proposal) }] : [];
    const r = await createCommit({ context, state, wireAsPublicMessage: true, extraProposals: extra });
    state = r.newState;
    return { ...status(), message: write(r.commit) };
  },
  async export({ label, context: c, length }) {
    const secret = await mlsExporter(state.keySchedule.exporterSecret, label, base64ToBytes(c), length, suite);
    return { secret: bytesToBase64(secret) };
  },
};

for await (const line of createInterface({ input: process.stdin })) {
  let answer;
  try {
    const { op, ...args } = JSON.parse(line);
    answer = { ok: await ops[op](args) };
  } catch (e) {
    answer = { error: String(e?.stack ?? e) };
  }
  process.stdout.write(JSON.stringify(answer) + "\n");
}
