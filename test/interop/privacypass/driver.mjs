// A token client, issuer and origin that are driven over standard input and output: a JSON object a line in, one out. Byte strings are base64.
// Requests: {op, ...}; answers: {ok: ...} or {error: text}.
import { createInterface } from "node:readline";
import { Token, TokenChallenge, TOKEN_TYPES, publicVerif } from "@cloudflare/privacypass-ts";

const { BlindRSAMode, Client, Issuer, Origin, TokenRequest, TokenResponse } = publicVerif;
const mode = BlindRSAMode.PSS;
const type = TOKEN_TYPES.BLIND_RSA;
const read = (b64) => new Uint8Array(Buffer.from(b64, "base64"));
const write = (bytes) => Buffer.from(bytes).toString("base64");
const algorithm = { name: "RSA-PSS", hash: "SHA-384" };
let client; // between request and finalize
let issuer;

const ops = {
  // request blinds a token for a challenge under a key, which is an SPKI with the RSASSA-PSS OID.
  async request({ challenge, key }) {
    client = new Client(mode);
    const request = await client.createTokenRequest(TokenChallenge.deserialize(read(challenge)), read(key));
    return { request: write(request.serialize()) };
  },
  async finalize({ response }) {
    const token = await client.finalize(TokenResponse.deserialize(read(response)));
    return { token: write(token.serialize()) };
  },
  // issuer takes over a key pair: PKCS #8 and SPKI, both with the rsaEncryption OID.
  async issuer({ privateKey, publicKey }) {
    const secret = await crypto.subtle.importKey("pkcs8", read(privateKey), algorithm, true, ["sign"]);
    const shown = await crypto.subtle.importKey("spki", read(publicKey), algorithm, true, ["verify"]);
    issuer = new Issuer(mode, "a.example", secret, shown);
    return {};
  },
  async issue({ request }) {
    const response = await issuer.issue(TokenRequest.deserialize(type, read(request)));
    return { response: write(response.serialize()) };
  },
  async verify({ token, origin }) {
    const parsed = Token.deserialize(type, read(token));
    return {
      valid: await new Origin(mode, [origin]).verify(parsed, issuer.publicKey),
      again: write(parsed.serialize()),
      challengeDigest: write(parsed.authInput.challengeDigest),
    };
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
