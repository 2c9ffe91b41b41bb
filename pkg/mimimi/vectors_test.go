package mimimi

import (
	"bytes"
	"crypto"
	"crypto/aes"
	"crypto/cipher"
	"crypto/ecdh"
	"crypto/ed25519"
	"crypto/hkdf"
	"crypto/hpke"
	"crypto/rsa"
	"crypto/sha256"
	"crypto/sha3"
	"crypto/sha512"
	"crypto/x509"
	"encoding/asn1"
	"encoding/base32"
	"encoding/binary"
	"encoding/hex"
	"encoding/json"
	"flag"
	"math/big"
	"os"
	"strings"
	"testing"
	"testing/cryptotest"
	"time"

	"mimimi.example/pkg/mls"
)

var update = flag.Bool("update", false, "write testdata/vectors.json anew: go test ./pkg/mimimi -run TestVectors -update")

const vectorFile = "testdata/vectors.json"

// vectors are values by name: identifiers as they are, bytes in hex. Names that begin with "sealed " hold a random part.
type vectors map[string]string

func (v vectors) bytes(t *testing.T, name string) []byte {
	t.Helper()
	b, err := hex.DecodeString(v[name])
	if err != nil || v[name] == "" {
		t.Fatalf("vector %q is missing or no hex", name)
	}
	return b
}

func (v vectors) set(name string, b []byte) { v[name] = hex.EncodeToString(b) }

// Inputs of the vectors: everything that is random elsewhere.
const (
	vecUser            = "mimi://a.example/u/alice"
	vecClient          = "mimi://a.example/d/11111111-1111-4111-8111-111111111111"
	vecUserPseudonym   = "mimi://a.example/u/22222222-2222-4222-8222-222222222222"
	vecClientPseudonym = "mimi://a.example/d/33333333-3333-4333-8333-333333333333"
	vecGroup           = "mimi://hub.example/g/44444444-4444-4444-8444-444444444444"
	vecOldClient       = "mimi://a.example/d/66666666-6666-4666-8666-666666666666"
	vecResponder       = "mimi://b.example/u/bob"
	vecResponderClient = "mimi://b.example/d/55555555-5555-4555-8555-555555555555"
)

func fill(c byte) []byte { return bytes.Repeat([]byte{c}, 32) }

func vecKey(seed byte) mls.SignatureKey { return must(Suite.DeriveSignatureKey(fill(seed))) }

func vecHPKE() mls.HPKEPrivateKey { return must(Suite.DeriveHPKEKey(fill(0x0b))) }

// makeVectors lets the package make one of everything.
func makeVectors() vectors {
	v := vectors{}
	user, client := must(ParseUser(vecUser)), must(ParseClient(vecClient))
	cert := must(IssueClientCertificate(vecKey(1), user, client, vecKey(2).Public(), noon, 365*day))
	v.set("ClientCertificate", cert.Marshal())
	v["ClientCertificate fingerprint"] = cert.Fingerprint()

	connection := must(ConnectionKeyFrom(fill(0x0a)))
	pc := must(NewPseudonymousCredential(PseudonymConfig{ConnectionKey: connection, CertificateKey: vecKey(2), Certificate: cert,
		ClientPseudonym: must(ParseClientPseudonym(vecClientPseudonym)), UserPseudonym: must(ParseUserPseudonym(vecUserPseudonym)),
		SignatureKey: vecKey(3).Public(), Now: noon}))
	link := pc.LinkKey(connection)
	v.set("PseudonymousCredential", pc.Credential().Body)
	v.set("identity_link_key", link.Bytes())

	token, invite := must(ConnectionTokenFrom(fill(0x0c))), must(InviteSecretFrom(fill(0x0d)))
	hash := token.Hash()
	v.set("connection_token hash", hash[:])
	v.set("join_token", invite.JoinToken().Bytes())
	hash = invite.JoinToken().Hash()
	v.set("join_token hash", hash[:])

	v.set("HPKE public key", vecHPKE().Public())
	v.vectorsOfConnections(cert, token, invite)
	v.vectorsOfGroups(&link, invite)
	v.vectorsOfRequests()
	return v
}

func (v vectors) vectorsOfLink(cert *ClientCertificate) {
	offer := &LinkOffer{cert.User, cert.Client, cert.SignatureKey, vecHPKE().Public()}
	v.set("LinkOffer", offer.Marshal())
	v["LinkOffer code"] = offer.Code()
	v.set("sealed LinkAnswer", must(SealLinkAnswer(&LinkAnswer{
		must(ParseClient(vecOldClient)), fill(0x14), must(ParseGroupID([]byte(vecGroup))), must(ParseUserPseudonym(vecUserPseudonym)),
		must(ConnectionKeyFrom(fill(0x0a))), vecKey(1).Public(),
	}, offer)))
}

func (v vectors) vectorsOfConnections(cert *ClientCertificate, token ConnectionToken, invite InviteSecret) {
	bob := must(IssueClientCertificate(vecKey(4), must(ParseUser(vecResponder)), must(ParseClient(vecResponderClient)), vecKey(5).Public(), noon, 365*day))
	record := must(NewConnectionRecord(bob, vecKey(5), vecHPKE().Public(), noon.Add(60*day)))
	v.set("ConnectionRecord", record.Marshal())
	hash := record.Hash()
	v.set("ConnectionRecord hash", hash[:])
	request := &ConnectionRequest{RequestID: [16]byte(fill(9)), Made: noon, NotAfter: wholeDay(noon.Add(14 * day)), RequesterCertificate: cert,
		ConnectionGroup: must(ParseGroupID([]byte(vecGroup))), InviteSecret: invite, RequesterKey: must(ConnectionKeyFrom(fill(0x0a))),
		RequesterToken: token, Responder: record.User, ResponderRecordHash: hash}
	v.set("sealed ConnectionRequest", must(SealConnectionRequest(request, vecKey(2), record)))
	v.vectorsOfLink(cert)
	v.set("ConnectionResponse", (&ConnectionResponse{must(ConnectionKeyFrom(fill(0x0a))), token}).Marshal())
	v.set("Rotation", (&Rotation{9, must(ConnectionKeyFrom(fill(0x0a))), &token, true}).Marshal())
	sealed := must(SealQueueID(QueueKey{7, vecHPKE().Public(), "a.example"}, must(ParseClientPseudonym(vecClientPseudonym)), must(QueueIDFrom(fill(0x0e)))))
	v.set("sealed EncryptedQueueID", sealed)
}

func (v vectors) vectorsOfGroups(link *LinkKey, invite InviteSecret) {
	g := must(ParseGroupID([]byte(vecGroup)))
	var k LinkUpdateKey
	_ = must(0, k.UnmarshalBinary(fill(0x0f)[:16]))
	refs := [][]byte{fill(0x11), fill(0x12)}
	second := must(LinkKeyFrom(fill(0x13)))
	v.set("sealed IdentityLinkUpdate", must(k.Seal(g, 5, 1, refs, IdentityLinkKeys{Added: []LinkKey{*link, second}, Own: &second})))
	v.set("identity_links", MarshalIdentityLinks([]*LinkKey{link, nil, &second}).Data)
	v.set("sealed links", must(SealLinks(ToJoiner, invite, g, 5, 1, 2, vecHPKE().Public(), []*LinkKey{link, nil})))
	v.set("SealedLinks", (&SealedLinks{[]uint32{2, 3}, [][]byte{{1}, {2, 3}}}).Marshal())
	v.set("JoinerLink", (&JoinerLink{2, second}).Marshal())

	policy := &Policy{Version: Version, Admins: []UserPseudonym{must(ParseUserPseudonym(vecUserPseudonym))}, MayAdd: RoleMember, MayRemove: RoleAdmin,
		MayInvite: RoleMember, ExternalJoins: true, LastResort: true, MaxLeaves: 1000}
	v.set("mimimi_group", policy.Marshal().Data)
	v.set("required_capabilities", RequiredCapabilities().Data)
	v.set("Invitation", (&Invitation{g, invite, 3, noon, policy, map[uint32]LinkKey{4: second, 0: *link}}).Marshal())
	v.set("Envelope", Envelope{EnvelopeJoinerLink, []byte("body")}.Marshal())
	v.set("State", (&State{barred: []barredID{barredIDOf(vecUserPseudonym)}, entries: map[uint32]entry{0: {noon.Unix(), noAdder}, 1: {noon.Unix(), 0}},
		joiner: &joiner{1, noon.Unix()}}).Marshal())
	sender := EpochSender{key: vecKey(6)}
	v.set("epoch_sender_key", sender.Extension().Data)
	v.set("epoch message signature", sender.SignMessage(g, 5, []byte("message")))
}

func (v vectors) vectorsOfRequests() {
	id := [16]byte(fill(9))
	read := &ReadRequest{OpReadTree, must(ParseGroupID([]byte(vecGroup))), 5, id, noon, []byte("body")}
	v.set("ReadRequest signature by epoch", EpochSender{key: vecKey(6)}.SignRead(read))
	v.set("ReadRequest signature by leaf", SignReadAsLeaf(vecKey(3), read))
	v.set("StoreRequest signature", SignStoreRequest(vecKey(7), &StoreRequest{"upload", vecKey(7).Public(), id, noon, []byte("body")}))
	owner := OwnerID(vecKey(7).Public())
	v.set("OwnerID", owner[:])
	v.set("QueueRequest signature", SignQueueRequest(vecKey(8), &QueueRequest{"read", must(QueueIDFrom(fill(0x0e))), id, noon, []byte("body")}))
	doc := &KeyDocument{Domain: "a.example", Number: 2969, NotBefore: noon, NotAfter: noon.Add(week),
		QueueKeys: []QueueKey{{7, vecHPKE().Public(), "a.example"}}, OHTTPKeys: []OHTTPKey{{"hub", []byte("config")}},
		IssuerKeys: []IssuerKey{*must(NewIssuerKey(TokenClaim, 2969, 8, &readRFC9578().key.PublicKey))}}
	_ = must(0, SignKeyDocument(doc, vecKey(1)))
	v.set("KeyDocument", doc.Marshal())
	v.vectorsOfTokens()
}

// TestVectors compares the package with testdata/vectors.json, which any other implementation can use too, and re-derives the file's
// values without the package: TLS encoding, labels, HKDF, AES-GCM, Ed25519 and HPKE are written out below, on the standard library.
func TestVectors(t *testing.T) {
	if *update {
		cryptotest.SetGlobalRandom(t, 1)
		wantOK(t, os.MkdirAll("testdata", 0o755))
		wantOK(t, os.WriteFile(vectorFile, append(must(json.MarshalIndent(makeVectors(), "", "  ")), '\n'), 0o644))
	}
	file := vectors{}
	wantOK(t, json.Unmarshal(must(os.ReadFile(vectorFile)), &file))
	made := makeVectors()
	if len(made) != len(file) {
		t.Errorf("%d vectors are made, the file has %d", len(made), len(file))
	}
	for name, value := range made {
		if !strings.HasPrefix(name, "sealed ") && file[name] != value {
			t.Errorf("%s differs from the file", name)
		}
	}
	checked := rederive(t, file)
	for name := range file {
		if !checked[name] {
			t.Errorf("%s is not derived a second time", name)
		}
	}
}

// ---- a second implementation ----

func u8(v uint8) []byte   { return []byte{v} }
func u16(v uint16) []byte { return binary.BigEndian.AppendUint16(nil, v) }
func u32(v uint32) []byte { return binary.BigEndian.AppendUint32(nil, v) }
func u64(v uint64) []byte { return binary.BigEndian.AppendUint64(nil, v) }

func cat(parts ...[]byte) []byte { return bytes.Join(parts, nil) }

// vec is opaque<V> of less than 16,384 bytes.
func vec(parts ...[]byte) []byte {
	b := cat(parts...)
	if len(b) < 64 {
		return cat(u8(uint8(len(b))), b)
	}
	return cat(u16(0x4000|uint16(len(b))), b)
}

func str(s string) []byte { return vec([]byte(s)) }

func sha(parts ...[]byte) []byte {
	h := sha256.Sum256(cat(parts...))
	return h[:]
}

func expandLabel(secret []byte, label string, context []byte, n int) []byte {
	return must(hkdf.Expand(sha256.New, secret, string(cat(u16(uint16(n)), str("MLS 1.0 "+label), vec(context))), n))
}

func seedKey(seed byte) ed25519.PrivateKey { return ed25519.NewKeyFromSeed(fill(seed)) }

func public(seed byte) []byte { return seedKey(seed).Public().(ed25519.PublicKey) }

func signLabel(seed byte, label string, content []byte) []byte {
	return ed25519.Sign(seedKey(seed), cat(str("MLS 1.0 "+label), vec(content)))
}

func gcm(key []byte) cipher.AEAD { return must(cipher.NewGCM(must(aes.NewCipher(key)))) }

func unix(t time.Time) []byte { return u64(uint64(t.Unix())) }

// hpkeOpen opens kem || ct with the vectors' HPKE key. Its derivation from 32 bytes of 0x0b is DeriveKeyPair of RFC 9180.
func hpkeOpen(t *testing.T, pub, info, aad, kem, ct []byte) []byte {
	t.Helper()
	k := must(hpke.DHKEM(ecdh.X25519()).DeriveKeyPair(fill(0x0b)))
	if !bytes.Equal(k.PublicKey().Bytes(), pub) {
		t.Error("the HPKE key is another")
	}
	r := must(hpke.NewRecipient(kem, k, hpke.HKDFSHA256(), hpke.AES128GCM(), info))
	return must(r.Open(aad, ct))
}

func certificate(user, client string, identity, key byte) []byte {
	tbs := cat(str("MIMIMI 1.0 ClientCertificate"), str(user), str(client), vec(public(key)), u64(1795564800-8*86400), u64(1795564800+366*86400))
	return cat(tbs, vec(signLabel(identity, "MIMIMI 1.0 ClientCertificate", tbs)))
}

// rederive checks the file's values and returns the names of those it checked.
func rederive(t *testing.T, v vectors) map[string]bool {
	t.Helper()
	done := map[string]bool{}
	is := func(name string, want []byte) {
		t.Helper()
		done[name] = true
		if !bytes.Equal(v.bytes(t, name), want) {
			t.Errorf("%s: the file has\n%x, derived is\n%x", name, v.bytes(t, name), want)
		}
	}
	pub := v.bytes(t, "HPKE public key")
	done["HPKE public key"] = true // compared in hpkeOpen

	cert := certificate(vecUser, vecClient, 1, 2)
	credential := cat(u16(0xF1A5), vec(cert))
	is("ClientCertificate", cert)
	fp := hex.EncodeToString(sha(str("MIMIMI 1.0 Fingerprint"), str(vecUser), str(vecClient), vec(public(2)))[:16])
	done["ClientCertificate fingerprint"] = strings.ReplaceAll(v["ClientCertificate fingerprint"], " ", "") == fp

	tbs := cat(str(vecClientPseudonym), str(vecUserPseudonym), vec(public(3)), u64(1795564800-2*86400))
	link := expandLabel(fill(0x0a), "IdentityLinkKey", tbs, 32)
	is("identity_link_key", link)
	plain := make([]byte, 512)
	copy(plain, cat(vec(signLabel(2, "MIMIMI 1.0 PseudonymousCredential", tbs)), credential))
	ct := gcm(expandLabel(link, "key", nil, 16)).Seal(nil, expandLabel(link, "nonce", nil, 12), plain, cat(str("MIMIMI 1.0 IdentityLink"), tbs))
	is("PseudonymousCredential", cat(tbs, vec(expandLabel(link, "commit", nil, 32), ct)))

	join := expandLabel(fill(0x0d), "join", nil, 32)
	is("connection_token hash", sha(str("MIMIMI 1.0 ConnectionToken"), fill(0x0c)))
	is("join_token", join)
	is("join_token hash", sha(str("MIMIMI 1.0 JoinToken"), join))

	rederiveConnections(t, v, is, done, pub, credential)
	rederiveLink(t, v, is, done, pub)
	rederiveGroups(t, v, is, done, pub, link)
	rederiveRequests(is, pub)
	return done
}

func rederiveConnections(t *testing.T, v vectors, is func(string, []byte), done map[string]bool, pub, credential []byte) {
	t.Helper()
	bobs := cat(u16(0xF1A5), vec(certificate(vecResponder, vecResponderClient, 4, 5)))
	tbs := cat(str("MIMIMI 1.0 ConnectionRecord"), str(vecResponder), vec(pub), u64(1795564800+60*86400), bobs)
	record := cat(tbs, vec(signLabel(5, "MIMIMI 1.0 ConnectionRecord", tbs)))
	hash := sha(str("MIMIMI 1.0 ConnectionRecord hash"), vec(record))
	is("ConnectionRecord", record)
	is("ConnectionRecord hash", hash)

	sealed := v.bytes(t, "sealed ConnectionRequest")
	got := hpkeOpen(t, pub, nil, cat(str("MIMIMI 1.0 ConnectionRequest seal"), str(vecResponder)), sealed[:32], sealed[32:])
	tbs = cat(str("MIMIMI 1.0 ConnectionRequest"), u16(1), fill(9)[:16], u64(uint64(noon.Unix())), u64(1795564800+14*86400), credential, str(vecGroup), fill(0x0d), fill(0x0a),
		fill(0x0c), str(vecResponder), hash)
	want := make([]byte, 2048)
	copy(want, cat(tbs, vec(signLabel(2, "MIMIMI 1.0 ConnectionRequest", tbs))))
	done["sealed ConnectionRequest"] = bytes.Equal(got, want)
	is("ConnectionResponse", cat(fill(0x0a), fill(0x0c)))
	is("Rotation", cat(u64(9), fill(0x0a), u8(1), fill(0x0c), u8(1)))

	queue := v.bytes(t, "sealed EncryptedQueueID")
	head := cat(str("a.example"), u32(7), u8(32))
	kem, ct := queue[len(head):len(head)+32], queue[len(head)+33:]
	id := hpkeOpen(t, pub, nil, cat(str("MIMIMI 1.0 EncryptedQueueID"), str("a.example"), str(vecClientPseudonym)), kem, ct)
	done["sealed EncryptedQueueID"] = bytes.HasPrefix(queue, head) && queue[len(head)+32] == 48 && bytes.Equal(id, fill(0x0e))
}

func rederiveLink(t *testing.T, v vectors, is func(string, []byte), done map[string]bool, pub []byte) {
	t.Helper()
	offer := cat(str("MIMIMI 1.0 LinkOffer"), u16(1), str(vecUser), str(vecClient), vec(public(2)), vec(pub))
	is("LinkOffer", offer)
	code := base32.StdEncoding.EncodeToString(sha(str("MIMIMI 1.0 LinkOffer code"), vec(offer)))[:12]
	done["LinkOffer code"] = v["LinkOffer code"] == code[:4]+"-"+code[4:8]+"-"+code[8:]
	sealed := v.bytes(t, "sealed LinkAnswer")
	got := hpkeOpen(t, pub, nil, cat(str("MIMIMI 1.0 LinkAnswer"), vec(offer)), sealed[:32], sealed[32:])
	want := make([]byte, 512)
	copy(want, cat(str(vecOldClient), vec(fill(0x14)), str(vecGroup), str(vecUserPseudonym), fill(0x0a), vec(public(1))))
	done["sealed LinkAnswer"] = bytes.Equal(got, want)
}

func rederiveGroups(t *testing.T, v vectors, is func(string, []byte), done map[string]bool, pub, link []byte) {
	t.Helper()
	second := fill(0x13)
	update := v.bytes(t, "sealed IdentityLinkUpdate")
	aad := cat(str("MIMIMI 1.0 IdentityLinkUpdate"), str(vecGroup), u64(5), u32(1), vec(vec(fill(0x11)), vec(fill(0x12))))
	plain := must(gcm(fill(0x0f)[:16]).Open(nil, update[1:13], update[15:], aad))
	done["sealed IdentityLinkUpdate"] = bytes.Equal(plain, cat(u32(2), vec(link), vec(second), u8(1), vec(second))) &&
		update[0] == 12 && bytes.Equal(update[13:15], u16(0x4000|uint16(len(update)-15)))
	is("identity_links", vec(u8(1), vec(link), u8(0), u8(1), vec(second)))

	blob := v.bytes(t, "sealed links")
	aad = cat(str("MIMIMI 1.0 SealedLinks"), str(vecGroup), u64(5), u32(1), u32(2))
	info := cat(str("MIMIMI 1.0 SealedLinks info"), u8(2), vec(fill(0x0d)))
	plain = hpkeOpen(t, pub, info, aad, blob[1:33], blob[34:])
	done["sealed links"] = blob[0] == 32 && int(blob[33]) == len(blob)-34 && bytes.Equal(plain, vec(u8(1), vec(link), u8(0)))
	is("SealedLinks", vec(u32(2), vec(u8(1)), u32(3), vec([]byte{2, 3})))
	is("JoinerLink", cat(u32(2), vec(second)))

	policy := cat(u16(1), vec(str(vecUserPseudonym)), []byte{1, 2, 1, 1, 0, 1}, u32(1000))
	is("mimimi_group", policy)
	is("required_capabilities", cat(vec(u16(0xF1A1), u16(0xF1A2), u16(0xF1A3), u16(0xF1A6), u16(0x000A)), vec(u16(0xF1A4), u16(0x000A)),
		vec(u16(0xF1A0), u16(0xF1A5))))
	is("Invitation", cat(str(vecGroup), fill(0x0d), u16(3), unix(noon), vec(policy), vec(u32(0), vec(link), u32(4), vec(second))))
	is("Envelope", cat(u16(9), str("body")))
	barred := sha(str("MIMIMI 1.0 BarredPseudonym"), str(vecUserPseudonym))[:16]
	is("State", cat(u16(1), vec(barred), vec(u32(0), unix(noon), u32(0xFFFFFFFF), u32(1), unix(noon), u32(0)), u8(1), u32(1), unix(noon)))
	is("epoch_sender_key", vec(public(6)))
	label := "MIMIMI 1.0 EpochMessage"
	is("epoch message signature", signLabel(6, label, cat(str(label), str(vecGroup), u64(5), str("message"))))
}

func rederiveRequests(is func(string, []byte), pub []byte) {
	id := fill(9)[:16]
	read := cat(str("tree"), str(vecGroup), u64(5), id, unix(noon), str("body"))
	signed := func(name string, seed byte, label string, rest []byte) {
		is(name, signLabel(seed, label, cat(str(label), rest)))
	}
	signed("ReadRequest signature by epoch", 6, "MIMIMI 1.0 ReadRequest epoch", read)
	signed("ReadRequest signature by leaf", 3, "MIMIMI 1.0 ReadRequest leaf", read)
	signed("StoreRequest signature", 7, "MIMIMI 1.0 StoreRequest", cat(str("upload"), vec(public(7)), id, unix(noon), str("body")))
	is("OwnerID", sha(str("MIMIMI 1.0 StoreOwner"), vec(public(7))))
	signed("QueueRequest signature", 8, "MIMIMI 1.0 QueueRequest", cat(str("read"), vec(fill(0x0e)), id, unix(noon), str("body")))
	label := "MIMIMI 1.0 KeyDocument"
	tbs := cat(str(label), u16(1), str("a.example"), u64(2969), unix(noon), unix(noon.Add(7*24*time.Hour)), vec(public(1)),
		vec(u32(7), vec(pub)), vec(str("hub"), str("config")), vec(str("claim"), u64(2969), u16(8), vec(issuerSPKI())))
	is("KeyDocument", cat(tbs, vec(signLabel(1, label, tbs))))
	rederiveTokens(is)
}

// issuerSPKI builds the key of RFC 9578's vectors from its ASN.1.
func issuerSPKI() []byte {
	type algorithm struct {
		OID        asn1.ObjectIdentifier
		Parameters asn1.RawValue `asn1:"optional"`
	}
	type pss struct {
		Hash algorithm `asn1:"explicit,tag:0"`
		MGF  algorithm `asn1:"explicit,tag:1"`
		Salt int       `asn1:"explicit,tag:2"`
	}
	der := func(v any) asn1.RawValue { return asn1.RawValue{FullBytes: must(asn1.Marshal(v))} }
	sha384 := algorithm{OID: asn1.ObjectIdentifier{2, 16, 840, 1, 101, 3, 4, 2, 2}}
	mgf := algorithm{OID: asn1.ObjectIdentifier{1, 2, 840, 113549, 1, 1, 8}, Parameters: der(sha384)}
	public := x509.MarshalPKCS1PublicKey(&readRFC9578().key.PublicKey)
	return must(asn1.Marshal(struct {
		Algorithm algorithm
		Key       asn1.BitString
	}{algorithm{OID: asn1.ObjectIdentifier{1, 2, 840, 113549, 1, 1, 10}, Parameters: der(pss{sha384, mgf, 48})}, asn1.BitString{Bytes: public, BitLength: 8 * len(public)}}))
}

// rederiveTokens signs without blinding, and blinds the signed encoding by arithmetic alone.
func rederiveTokens(is func(string, []byte)) {
	key, spki := readRFC9578().key, issuerSPKI()
	is("issuer key", spki)
	short := func(b []byte) []byte { return cat(u16(uint16(len(b))), b) }
	context := sha(str("MIMIMI 1.0 TokenContext"), str("claim"), u64(2969))
	challenge := cat(u16(2), short([]byte("a.example")), u8(32), context, short([]byte("b.example")))
	is("token challenge", challenge)
	seed := sha(str("MIMIMI 1.0 TokenSeed"), vec(fill(0x0f)), str("claim"), u32(3))
	is("token seed", seed)

	stream := sha3.SumSHAKE256(cat(str("MIMIMI 1.0 TokenBlind"), vec(seed)), 32+48+64*256)
	nonce, salt, rest := stream[:32], stream[32:80], stream[80:]
	r := new(big.Int).SetBytes(rest[:256])
	for r.Cmp(key.N) >= 0 { // the first of the stream's numbers that is below the modulus
		rest = rest[256:]
		r.SetBytes(rest[:256])
	}
	input := cat(u16(2), nonce, sha(challenge), sha(spki))
	digest := sha512.Sum384(input)
	authenticator := must(key.Sign(bytes.NewReader(salt), digest[:], &rsa.PSSOptions{SaltLength: 48, Hash: crypto.SHA384}))
	token := cat(str("a.example"), input, authenticator)
	is("Token", token)
	is("token spent name", sha(str("MIMIMI 1.0 TokenSpent"), str("a.example"), sha(spki), nonce))
	e := big.NewInt(65537)
	encoded := new(big.Int).Exp(new(big.Int).SetBytes(authenticator), e, key.N)
	encoded.Mul(encoded, r.Exp(r, e, key.N)).Mod(encoded, key.N)
	is("token blinded", encoded.FillBytes(make([]byte, 256)))
}
