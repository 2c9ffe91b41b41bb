package main

import (
	"bytes"
	"context"
	"encoding/binary"
	"time"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"mimimi.example/pkg/mls"
	"mimimi.example/test/interop/mlsclient/pb"
)

// How long a KeyPackage is valid before it was made, for clocks that go after, and from then on: less than the three months that some implementations
// set as a bound.
const (
	validBefore = time.Hour
	validFor    = 80 * 24 * time.Hour
)

// pskStore is the external PSKs of one client.
type pskStore map[string][]byte

func (p pskStore) find(id []byte) ([]byte, error) {
	secret, ok := p[string(id)]
	if !ok {
		return nil, status.Error(codes.FailedPrecondition, "the client does not have this PSK")
	}
	return secret, nil
}

func (p pskStore) add(id, secret []byte) error {
	if len(p) >= maxPSKs && p[string(id)] == nil {
		return status.Error(codes.ResourceExhausted, "a client has no more PSKs than this one keeps")
	}
	p[string(id)] = bytes.Clone(secret)
	return nil
}

// newcomer is a KeyPackage with its secrets: a transaction.
type newcomer struct {
	keyPackage *mls.KeyPackage
	secrets    *mls.KeyPackageSecrets
	psks       pskStore
}

// newNewcomer makes a KeyPackage, with a signature key of its own.
func newNewcomer(suite mls.CipherSuite, identity []byte) (*newcomer, error) {
	key, err := suite.GenerateSignatureKey()
	if err != nil {
		return nil, err
	}
	at := now()
	kp, secrets, err := mls.NewKeyPackage(mls.KeyPackageConfig{
		Suite:        suite,
		Credential:   mls.Credential{Type: mls.CredentialBasic, Body: identity},
		SignatureKey: key,
		Capabilities: mls.Capabilities{
			Versions:     []uint16{1},
			CipherSuites: suites,
			Credentials:  []mls.CredentialType{mls.CredentialBasic},
		},
		Lifetime: mls.Lifetime{NotBefore: uint64(at.Add(-validBefore).Unix()), NotAfter: uint64(at.Add(validFor).Unix())},
	})
	if err != nil {
		return nil, err
	}
	return &newcomer{keyPackage: kp, secrets: secrets, psks: pskStore{}}, nil
}

// privateKeys returns the three private keys as the suite's algorithms write them.
func (n *newcomer) privateKeys() (initKey, encryptionKey, signatureKey []byte, err error) {
	for _, k := range []struct {
		key interface{ MarshalBinary() ([]byte, error) }
		out *[]byte
	}{{n.secrets.InitKey, &initKey}, {n.secrets.EncryptionKey, &encryptionKey}, {n.secrets.SignatureKey, &signatureKey}} {
		b, err := k.key.MarshalBinary()
		if err != nil {
			return nil, nil, nil, err
		}
		*k.out = b[2:] // after the suite
	}
	return initKey, encryptionKey, signatureKey, nil
}

// The MLSMessage header of a KeyPackage, RFC 9420 §6: version 1, wire format 5.
var keyPackageHeader = binary.BigEndian.AppendUint16(binary.BigEndian.AppendUint16(nil, 1), 5)

// message is the KeyPackage as MLSMessage, which is what clients hand to each other.
func (n *newcomer) message() []byte {
	return append(bytes.Clone(keyPackageHeader), n.keyPackage.Marshal()...)
}

// parseKeyPackage reads a KeyPackage, bare or as MLSMessage. A bare one has its suite where the MLSMessage has the wire format, so that one of suite 5
// is told apart by what follows only.
func parseKeyPackage(b []byte) (*mls.KeyPackage, error) {
	if rest, ok := bytes.CutPrefix(b, keyPackageHeader); ok {
		if kp, err := mls.ParseKeyPackage(rest); err == nil {
			return kp, nil
		}
	}
	return mls.ParseKeyPackage(b)
}

func parseKeyPackages(bs [][]byte) ([]*mls.KeyPackage, error) {
	var out []*mls.KeyPackage
	for _, b := range bs {
		kp, err := parseKeyPackage(b)
		if err != nil {
			return nil, err
		}
		out = append(out, kp)
	}
	return out, nil
}

func (s *server) CreateKeyPackage(_ context.Context, rq *pb.CreateKeyPackageRequest) (*pb.CreateKeyPackageResponse, error) {
	suite, err := suiteOf(rq.CipherSuite)
	if err != nil {
		return nil, err
	}
	n, err := newNewcomer(suite, rq.Identity)
	if err != nil {
		return nil, err
	}
	rs := &pb.CreateKeyPackageResponse{KeyPackage: n.message()}
	if rs.InitPriv, rs.EncryptionPriv, rs.SignaturePriv, err = n.privateKeys(); err != nil {
		return nil, err
	}
	rs.TransactionId = s.things.add(n)
	return rs, nil
}

func (s *server) NewMemberAddProposal(_ context.Context, rq *pb.NewMemberAddProposalRequest) (*pb.NewMemberAddProposalResponse, error) {
	info, err := mls.ParseGroupInfo(rq.GroupInfo)
	if err != nil {
		return nil, err
	}
	n, err := newNewcomer(info.Suite, rq.Identity)
	if err != nil {
		return nil, err
	}
	rs := new(pb.NewMemberAddProposalResponse)
	if rs.Proposal, err = info.NewMemberAdd(n.keyPackage, n.secrets, nil); err != nil {
		return nil, err
	}
	if rs.InitPriv, rs.EncryptionPriv, rs.SignaturePriv, err = n.privateKeys(); err != nil {
		return nil, err
	}
	rs.TransactionId = s.things.add(n)
	return rs, nil
}

// join joins by a Welcome. old is the group that the new one may be the successor or a branch of, nil if it is not to be.
func (n *newcomer) join(welcome, tree []byte, old *mls.Group, private bool) (*member, *mls.GroupInfo, error) {
	g, info, err := mls.Join(mls.JoinConfig{
		Welcome: welcome, Tree: optional(tree), KeyPackage: n.keyPackage, Secrets: n.secrets, PSK: n.psks.find,
		Groups:     func([]byte) *mls.Group { return old },
		Rules:      rules,
		PastEpochs: pastEpochs,
	})
	if err != nil {
		return nil, nil, err
	}
	m := newMember(g, private)
	m.psks = n.psks
	return m, info, nil
}

// optional is bytes of a request that may be left out: an empty field is nil.
func optional(b []byte) []byte {
	if len(b) == 0 {
		return nil
	}
	return b
}

func (s *server) JoinGroup(_ context.Context, rq *pb.JoinGroupRequest) (*pb.JoinGroupResponse, error) {
	n, err := get[*newcomer](s.things, rq.TransactionId)
	if err != nil {
		return nil, err
	}
	m, _, err := n.join(rq.Welcome, rq.RatchetTree, nil, rq.EncryptHandshake)
	if err != nil {
		return nil, err
	}
	s.things.drop(rq.TransactionId) // a KeyPackage serves once
	return &pb.JoinGroupResponse{StateId: s.things.add(m), EpochAuthenticator: m.group.EpochAuthenticator()}, nil
}

func (s *server) ExternalJoin(_ context.Context, rq *pb.ExternalJoinRequest) (*pb.ExternalJoinResponse, error) {
	info, err := mls.ParseGroupInfo(rq.GroupInfo)
	if err != nil {
		return nil, err
	}
	n, err := newNewcomer(info.Suite, rq.Identity)
	if err != nil {
		return nil, err
	}
	cfg := mls.ExternalJoinConfig{
		GroupInfo: rq.GroupInfo, Tree: optional(rq.RatchetTree), KeyPackage: n.keyPackage, Secrets: n.secrets, PSK: n.psks.find,
		Rules: rules, PastEpochs: pastEpochs,
	}
	for _, p := range rq.Psks {
		if err := n.psks.add(p.PskId, p.PskSecret); err != nil {
			return nil, err
		}
		cfg.Proposals = append(cfg.Proposals, externalPSK(p.PskId))
	}
	if rq.RemovePrior {
		g, err := mls.NewPublicGroup(rq.GroupInfo, cfg.Tree, rules)
		if err != nil {
			return nil, err
		}
		if cfg.OldLeaf, err = indexOf(g, rq.Identity); err != nil {
			return nil, err
		}
		cfg.Resync = true
	}
	staged, err := mls.JoinExternal(cfg)
	if err != nil {
		return nil, err
	}
	if err := (*mls.Group)(nil).Merge(staged); err != nil {
		return nil, err
	}
	m := newMember(staged.Group(), rq.EncryptHandshake)
	m.psks = n.psks
	return &pb.ExternalJoinResponse{StateId: s.things.add(m), Commit: staged.Message, EpochAuthenticator: m.group.EpochAuthenticator()}, nil
}
