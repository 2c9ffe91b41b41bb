package kpstore

import (
	"context"
	"crypto/ed25519"
	"slices"
	"time"

	v1 "mimimi.example/api/mimimi/v1"
	"mimimi.example/pkg/mimimi"
	"mimimi.example/pkg/problem"
)

// Operations that owners sign (protocol.md §8), and claim, which is counted.
const (
	opRegisterAlias = "register alias"
	opRevokeAlias   = "revoke alias"
	opListSets      = "list sets"
	opUpload        = "upload"
	opWithdraw      = "withdraw"
	opDeleteIndex   = "delete index"
	opClaim         = "claim"
)

var (
	errProof     = problem.New(problem.Denied, "protocol §8: the request is signed by the write key, for this operation, within the last minutes")
	errRequestID = problem.New(problem.Invalid, "protocol §8: a request id is 16 bytes")
	errWriteKey  = problem.New(problem.Invalid, "protocol §8: a write key is 32 bytes")
	errHash      = problem.New(problem.Invalid, "protocol §8: a token hash is 32 bytes")
	errToken     = problem.New(problem.Invalid, "protocol §8: a connection token is 32 bytes")
	errWithdrawn = problem.New(problem.Invalid, "protocol §8: a withdrawal names 1 to 64 user pseudonyms of this domain")
)

// handler answers KeyPackageService: decode, call the store, encode.
type handler struct {
	store    *store
	domain   string
	limits   limits
	redeemer mimimi.Redeemer
	metrics  *metrics
}

// RegisterAlias implements KeyPackageService.
func (h *handler) RegisterAlias(ctx context.Context, r *v1.AliasRequest) (*v1.AliasResponse, error) {
	return &v1.AliasResponse{}, h.answer(ctx, opRegisterAlias, h.alias(ctx, opRegisterAlias, r, h.store.registerAlias))
}

// RevokeAlias implements KeyPackageService.
func (h *handler) RevokeAlias(ctx context.Context, r *v1.AliasRequest) (*v1.AliasResponse, error) {
	return &v1.AliasResponse{}, h.answer(ctx, opRevokeAlias, h.alias(ctx, opRevokeAlias, r, h.store.revokeAlias))
}

func (h *handler) alias(ctx context.Context, op string, r *v1.AliasRequest, do func(ctx context.Context, owner, tokenHash []byte) error) error {
	if len(r.GetTokenHash()) != 32 {
		return errHash
	}
	if _, err := h.verify(op, r.GetWriteKey(), r.GetSigned(), r.GetTokenHash()); err != nil {
		return err
	}
	return do(ctx, ownerOf(r.GetWriteKey()), r.GetTokenHash())
}

// ListSets implements KeyPackageService.
func (h *handler) ListSets(ctx context.Context, r *v1.ListSetsRequest) (*v1.ListSetsResponse, error) {
	resp, err := h.listSets(ctx, r)
	return resp, h.answer(ctx, opListSets, err)
}

func (h *handler) listSets(ctx context.Context, r *v1.ListSetsRequest) (*v1.ListSetsResponse, error) {
	if _, err := h.verify(opListSets, r.GetWriteKey(), r.GetSigned(), nil); err != nil {
		return nil, err
	}
	in, err := h.store.index(ctx, ownerOf(r.GetWriteKey()), nil)
	if err != nil {
		return nil, err
	}
	resp := new(v1.ListSetsResponse)
	for _, s := range in.sets {
		sum := &v1.SetSummary{UserPseudonym: s.GetUserPseudonym(), LastResort: s.GetLastResort(), Revision: s.sequence, Uses: s.GetUses()}
		for _, k := range s.GetKeyPackages() {
			sum.ClientPseudonyms = append(sum.ClientPseudonyms, k.GetClientPseudonym())
		}
		resp.Sets = append(resp.Sets, sum)
	}
	return resp, nil
}

// Upload implements KeyPackageService.
func (h *handler) Upload(ctx context.Context, r *v1.UploadRequest) (*v1.UploadResponse, error) {
	return &v1.UploadResponse{}, h.answer(ctx, opUpload, h.upload(ctx, r))
}

func (h *handler) upload(ctx context.Context, r *v1.UploadRequest) error {
	if n := len(r.GetItems()); n == 0 || n > maxItems {
		return errItems
	}
	if r.GetClients() == 0 || r.GetClients() > maxClients {
		return errClients
	}
	body, err := v1.UploadBody(r)
	if err != nil {
		return errMalformed
	}
	id, err := h.verify(opUpload, r.GetWriteKey(), r.GetSigned(), body)
	if err != nil {
		return err
	}
	items, err := parseItems(r.GetItems(), h.domain, h.store.now())
	if err != nil {
		return err
	}
	deed := append(slices.Clone(r.GetWriteKey()), body...)
	if _, err := h.redeemer.Redeem(ctx, &mimimi.Spending{Operation: mimimi.TokenUpload, Token: r.GetToken(), RequestID: id, Deed: deed}); err != nil {
		return err
	}
	return h.store.upload(ctx, ownerOf(r.GetWriteKey()), items, r.GetClients())
}

// Withdraw implements KeyPackageService.
func (h *handler) Withdraw(ctx context.Context, r *v1.WithdrawRequest) (*v1.WithdrawResponse, error) {
	resp, err := h.withdraw(ctx, r)
	return resp, h.answer(ctx, opWithdraw, err)
}

func (h *handler) withdraw(ctx context.Context, r *v1.WithdrawRequest) (*v1.WithdrawResponse, error) {
	if n := len(r.GetUserPseudonyms()); n == 0 || n > maxWithdrawn {
		return nil, errWithdrawn
	}
	body, err := v1.WithdrawBody(r)
	if err != nil {
		return nil, errWithdrawn
	}
	if _, err := h.verify(opWithdraw, r.GetWriteKey(), r.GetSigned(), body); err != nil {
		return nil, err
	}
	for _, p := range r.GetUserPseudonyms() {
		if u, err := mimimi.ParseUserPseudonym(p); err != nil || u.Domain() != h.domain {
			return nil, errWithdrawn
		}
	}
	handedOut, err := h.store.withdraw(ctx, ownerOf(r.GetWriteKey()), r.GetUserPseudonyms())
	if err != nil {
		return nil, err
	}
	return &v1.WithdrawResponse{HandedOut: handedOut}, nil
}

// DeleteIndex implements KeyPackageService.
func (h *handler) DeleteIndex(ctx context.Context, r *v1.DeleteIndexRequest) (*v1.DeleteIndexResponse, error) {
	return &v1.DeleteIndexResponse{}, h.answer(ctx, opDeleteIndex, h.deleteIndex(ctx, r))
}

func (h *handler) deleteIndex(ctx context.Context, r *v1.DeleteIndexRequest) error {
	if _, err := h.verify(opDeleteIndex, r.GetWriteKey(), r.GetSigned(), nil); err != nil {
		return err
	}
	return h.store.deleteIndex(ctx, ownerOf(r.GetWriteKey()))
}

// Claim implements KeyPackageService.
func (h *handler) Claim(ctx context.Context, r *v1.ClaimRequest) (*v1.ClaimResponse, error) {
	resp, err := h.claim(ctx, r)
	h.metrics.claimed(ctx, resp, err)
	return resp, h.answer(ctx, opClaim, err)
}

func (h *handler) claim(ctx context.Context, r *v1.ClaimRequest) (*v1.ClaimResponse, error) {
	if len(r.GetRequestId()) != 16 {
		return nil, errRequestID
	}
	token, err := mimimi.ConnectionTokenFrom(r.GetConnectionToken())
	if err != nil {
		return nil, errToken
	}
	hash := token.Hash()
	receipt, err := h.redeemer.Redeem(ctx, &mimimi.Spending{Operation: mimimi.TokenClaim, Token: r.GetToken(), RequestID: [16]byte(r.GetRequestId()), Deed: hash[:]})
	if err != nil {
		return nil, err
	}
	c := &claimant{
		store: h.store, limits: h.limits, issuer: receipt.Issuer, tokenHash: hash[:], key: claimKey(r.GetRequestId(), hash[:]),
		last: r.GetAllowLastResort(), tried: make(map[string]bool), over: receipt.Again && !h.store.now().Before(receipt.First.Add(answerFor)),
	}
	rec, err := c.claim(ctx)
	if err != nil {
		return nil, err
	}
	c.watchStock(ctx, rec)
	return &v1.ClaimResponse{KeyPackages: rec.GetKeyPackages(), LastResort: rec.GetLastResort()}, nil
}

// verify checks an owner's signature over a request and returns the request id.
func (h *handler) verify(op string, writeKey []byte, signed *v1.Signed, body []byte) (id [16]byte, err error) {
	if len(writeKey) != ed25519.PublicKeySize {
		return id, errWriteKey
	}
	if len(signed.GetRequestId()) != len(id) {
		return id, errRequestID
	}
	id = [16]byte(signed.GetRequestId())
	r := &mimimi.StoreRequest{Operation: op, WriteKey: writeKey, RequestID: id, Minute: time.Unix(signed.GetMinute()*60, 0).UTC(), Body: body}
	if err := mimimi.VerifyStoreRequest(r, signed.GetSignature(), h.store.now()); err != nil {
		return id, problem.Wrap(problem.Denied, errProof.Sentence, err)
	}
	return id, nil
}

// answer counts a request and turns its error into what Connect sends.
func (h *handler) answer(ctx context.Context, op string, err error) error {
	h.metrics.request(ctx, op, err)
	return problem.Connect(err)
}
