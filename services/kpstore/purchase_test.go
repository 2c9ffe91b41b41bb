package kpstore

import (
	"context"
	"slices"
	"testing"

	"google.golang.org/protobuf/proto"

	v1 "mimimi.example/api/mimimi/v1"
	"mimimi.example/api/mimimi/v1/mimimiv1connect"
	"mimimi.example/pkg/bus/bustest"
	"mimimi.example/pkg/mimimi"
	"mimimi.example/pkg/redeem/redeemtest"
	"mimimi.example/pkg/service/servicetest"
)

// shopper is a replica that is a process, and one of the two calls that take a token there.
type shopper[D any] struct {
	*servicetest.Process
	client mimimiv1connect.KeyPackageServiceClient
	buy    func(ctx context.Context, c mimimiv1connect.KeyPackageServiceClient, deed D, id [16]byte, token []byte) (proto.Message, error)
}

// Buy implements redeemtest.Replica.
func (s *shopper[D]) Buy(ctx context.Context, deed D, id [16]byte, token []byte) ([]byte, error) {
	answer, err := s.buy(ctx, s.client, deed, id, token)
	if err != nil {
		return nil, err
	}
	return proto.MarshalOptions{Deterministic: true}.Marshal(answer)
}

// open starts a replica behind a gate.
func (p *processes) open(g *bustest.Gate) (*servicetest.Process, mimimiv1connect.KeyPackageServiceClient) {
	process := p.start(g.URL())
	redeemtest.Answering(p, p.domain.Bus("provider"), "kpstore", g)
	return process, p.client()
}

// stocked is a user's index with three sets, and a connection token that opens it.
type stocked struct {
	u     *user
	token []byte
}

// claims is a store that sells claims.
func claims(p *processes) *redeemtest.Shop[stocked] {
	here := p.replica()
	buy := func(ctx context.Context, c mimimiv1connect.KeyPackageServiceClient, d stocked, id [16]byte, token []byte) (proto.Message, error) {
		return c.Claim(ctx, &v1.ClaimRequest{RequestId: id[:], ConnectionToken: d.token, Token: token})
	}
	return &redeemtest.Shop[stocked]{
		Domain: p.domain, Name: domain, Operation: mimimi.TokenClaim,
		Open: func(g *bustest.Gate) redeemtest.Replica[stocked] {
			process, client := p.open(g)
			return &shopper[stocked]{process, client, buy}
		},
		New: func() stocked {
			u := p.user(domain)
			u.mustUpload(here, 1, u.items(3, 0)...)
			return stocked{u, u.token(here)}
		},
		Done: func(d stocked) int { return 3 - len(d.u.list(here)) },
	}
}

// uploading is a user and two KeyPackages that start a set each.
type uploading struct {
	u     *user
	items []*v1.UploadItem
}

// uploads is a store that sells uploads.
func uploads(p *processes) *redeemtest.Shop[uploading] {
	here := p.replica()
	buy := func(ctx context.Context, c mimimiv1connect.KeyPackageServiceClient, d uploading, id [16]byte, token []byte) (proto.Message, error) {
		return c.Upload(ctx, d.u.uploadAs(id, token, d.items))
	}
	return &redeemtest.Shop[uploading]{
		Domain: p.domain, Name: domain, Operation: mimimi.TokenUpload,
		Open: func(g *bustest.Gate) redeemtest.Replica[uploading] {
			process, client := p.open(g)
			return &shopper[uploading]{process, client, buy}
		},
		New: func() uploading {
			u := p.user(domain)
			u.token(here)
			return uploading{u, u.items(2, 0)}
		},
		Done: func(d uploading) int { return d.u.uploaded(here, d.items) },
	}
}

// uploadAs is an upload under a request id of one's own choice.
func (u *user) uploadAs(id [16]byte, token []byte, items []*v1.UploadItem) *v1.UploadRequest {
	r := &v1.UploadRequest{WriteKey: u.key.Public(), Items: items, Clients: 1, Token: token}
	r.Signed = u.signAs(id, opUpload, must(v1.UploadBody(r)))
	return r
}

// uploaded is how often an upload was done: 0, or 1 if the index holds a set for each of its items and no other. What was done in part counts as -1.
func (u *user) uploaded(h *handler, items []*v1.UploadItem) int {
	u.Helper()
	var want, got []string
	for _, it := range items {
		want = append(want, must(parseItem(it, domain, u.now)).user)
	}
	for _, s := range u.list(h) {
		if len(s.GetClientPseudonyms()) != 1 {
			u.Errorf("a set holds %d KeyPackages", len(s.GetClientPseudonyms()))
		}
		got = append(got, s.GetUserPseudonym())
	}
	slices.Sort(want)
	slices.Sort(got)
	switch {
	case len(got) == 0:
		return 0
	case slices.Equal(got, want):
		return 1
	}
	return -1
}

// TestKill9ClaimToken and the next: a store that is killed between a token's mark and the deed, and after each write of the deed.
func TestKill9ClaimToken(t *testing.T) {
	t.Parallel()
	claims(newProcesses(t)).Kill9(t)
}

func TestKill9UploadToken(t *testing.T) {
	t.Parallel()
	uploads(newProcesses(t)).Kill9(t)
}

// TestClaimTokenAtOnce and the next: 32 clients spend one token at once at two replicas.
func TestClaimTokenAtOnce(t *testing.T) {
	t.Parallel()
	claims(newProcesses(t)).AtOnce(t)
}

func TestUploadTokenAtOnce(t *testing.T) {
	t.Parallel()
	uploads(newProcesses(t)).AtOnce(t)
}
