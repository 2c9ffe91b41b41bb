package client

import (
	"bytes"
	"context"
	"encoding/hex"
	"errors"
	"fmt"
	"math/rand/v2"
	"slices"
	"strconv"
	"strings"
	"time"

	mimimiv1 "mimimi.example/api/mimimi/v1"
	"mimimi.example/pkg/mimimi"
	"mimimi.example/pkg/problem"
)

// The wallet holds the anonymous tokens of docs/protocol.md §11. They come in one batch a week on the account channel, all for the own domain; tokens for another
// domain are had for own ones, on the anonymous channel. A token that is to be spent is stored together with the request id that it is spent under, before
// it leaves, and stays there until its time is over: a repeat of the request shows the same one.

// opIssueTokens is signed on the account channel.
const opIssueTokens = "issue tokens"

// walletRecord says which batches came and what is under way.
type walletRecord struct {
	Have     []uint64        `json:"have,omitempty"`     // epochs whose batch is here, or will never be
	Batch    *batchRecord    `json:"batch,omitempty"`    // asked for, or about to be
	Exchange *exchangeRecord `json:"exchange,omitempty"` // the same
	Next     uint64          `json:"next,omitempty"`     // the epoch whose batch is asked for before it begins …
	Due      int64           `json:"due,omitempty"`      // … at this time
}

// batchRecord is all that is needed to ask for a batch again, and to finish it.
type batchRecord struct {
	Epoch   uint64             `json:"epoch"`
	Seed    []byte             `json:"seed"`
	Request []byte             `json:"request"`
	Keys    []mimimi.IssuerKey `json:"keys"`
}

// exchangeRecord is the same for an exchange.
type exchangeRecord struct {
	Key     mimimi.IssuerKey `json:"key"`
	Domain  string           `json:"domain"`
	Seed    []byte           `json:"seed"`
	Request []byte           `json:"request"`
	Tokens  [][]byte         `json:"tokens"`
}

// purseRecord is the tokens of one operation, epoch and redeeming domain.
type purseRecord struct {
	Epoch  uint64   `json:"epoch"`
	Tokens [][]byte `json:"tokens"`
}

// spendingRecord is a token that is being spent, or was.
type spendingRecord struct {
	Epoch uint64 `json:"epoch"`
	Token []byte `json:"token"`
}

// NoTokensError says that the quota of an operation is used up until Next. It matches ErrNoTokens.
type NoTokensError struct {
	Operation string
	Next      time.Time // when the next batch is good
}

// Error names the operation.
func (e *NoTokensError) Error() string {
	return ErrNoTokens.Error() + ": " + e.Operation
}

// Unwrap returns ErrNoTokens.
func (e *NoTokensError) Unwrap() error { return ErrNoTokens }

func purseKey(o mimimi.TokenOperation, epoch uint64, domain string) []byte {
	return []byte(string(o) + "/" + strconv.FormatUint(epoch, 10) + "/" + domain)
}

func spendingKey(o mimimi.TokenOperation, id []byte) []byte {
	return []byte(string(o) + "/" + hex.EncodeToString(id))
}

func readWallet(tx Tx) (*walletRecord, error) {
	w, found, err := read[walletRecord](tx, bucketMeta, keyWallet)
	if !found && err == nil {
		w = new(walletRecord)
	}
	return w, err
}

func (c *Client) wallet() (w *walletRecord, err error) {
	err = c.view(func(tx Tx) (err error) {
		w, err = readWallet(tx)
		return err
	})
	return w, err
}

// changeWallet changes the wallet's record and what belongs to the change, in one transaction.
func (c *Client) changeWallet(change func(tx Tx, w *walletRecord) error) error {
	return c.update(func(tx Tx) error {
		w, err := readWallet(tx)
		if err != nil {
			return err
		}
		if err := change(tx, w); err != nil {
			return err
		}
		return write(tx, bucketMeta, keyWallet, w)
	})
}

// spendable are the epochs whose tokens can be spent now, the oldest first.
func (c *Client) spendable() [2]uint64 {
	present := mimimi.TokenEpoch(c.now())
	return [2]uint64{max(present, 1) - 1, present}
}

// spend runs a request that takes a token: f gets it. The same request id gets the same token, so a repeat costs nothing. A token that the service takes
// for a false or spent one, as after the restoring of a backup, is dropped, and another one tried. Errors: NoTokensError, f's.
func (c *Client) spend(ctx context.Context, o mimimi.TokenOperation, domain string, id []byte, f func(token []byte) error) error {
	for range maxTokenTries {
		token, err := c.tokenToShow(ctx, o, domain, id)
		if err != nil {
			return err
		}
		if err = f(token); !refusesToken(err) {
			return err
		}
		if err := c.update(func(tx Tx) error { return tx.Delete(bucketSpending, spendingKey(o, id)) }); err != nil {
			return err
		}
	}
	return errTokensRefused
}

// tokenToShow is token, as a request shows it.
func (c *Client) tokenToShow(ctx context.Context, o mimimi.TokenOperation, domain string, id []byte) ([]byte, error) {
	token, err := c.token(ctx, o, domain, id)
	if err == nil && c.shows != nil {
		token = c.shows(o, token)
	}
	return token, err
}

// errTokensRefused is not final: other tokens come.
var errTokensRefused = problem.New(problem.Unavailable, "the service takes none of this client's anonymous tokens: try again later")

// refusesToken says whether a service refused because of the token. Services' sentences about tokens begin with the section.
func refusesToken(err error) bool {
	p, ok := errors.AsType[*problem.Error](err)
	return ok && p.Kind == problem.Denied && strings.HasPrefix(p.Sentence, "protocol §11")
}

// token returns the token for a request, stored with the request's id.
func (c *Client) token(ctx context.Context, o mimimi.TokenOperation, domain string, id []byte) ([]byte, error) {
	for range maxTokenTries {
		token, err := c.take(o, domain, id)
		if err != nil {
			return nil, err
		}
		if token != nil {
			return token, c.pauseAfterIssue(ctx)
		}
		if err := c.earn(ctx, o, domain); err != nil {
			return nil, err
		}
	}
	return nil, c.noTokens(o)
}

func (c *Client) noTokens(o mimimi.TokenOperation) error {
	return &NoTokensError{Operation: string(o), Next: mimimi.EpochStart(mimimi.TokenEpoch(c.now()) + 1)}
}

// take moves a token from its purse to what is being spent, or finds it there; nil if there is none.
func (c *Client) take(o mimimi.TokenOperation, domain string, id []byte) (token []byte, err error) {
	epochs := c.spendable()
	err = c.view(func(tx Tx) error {
		s, found, err := read[spendingRecord](tx, bucketSpending, spendingKey(o, id))
		if err == nil && found && s.Epoch >= epochs[0] {
			token = s.Token
		}
		return err
	})
	if err != nil || token != nil {
		return token, err
	}
	err = c.update(func(tx Tx) error {
		for _, epoch := range epochs {
			got, err := takeFrom(tx, o, epoch, domain, 1)
			if err != nil {
				return err
			}
			if got != nil {
				token = got[0]
				c.tap(tapOf(o), token)
				return write(tx, bucketSpending, spendingKey(o, id), spendingRecord{Epoch: epoch, Token: token})
			}
		}
		return nil
	})
	return token, err
}

// tapOf is the kind of a token: a connection request's is shown to an inbox, which the account side serves.
func tapOf(o mimimi.TokenOperation) string {
	if o == mimimi.TokenConnect {
		return TapRequestToken
	}
	return TapToken
}

// takeFrom takes n tokens out of a purse, nil if it holds fewer.
func takeFrom(tx Tx, o mimimi.TokenOperation, epoch uint64, domain string, n int) ([][]byte, error) {
	key := purseKey(o, epoch, domain)
	p, found, err := read[purseRecord](tx, bucketPurses, key)
	if err != nil || !found || len(p.Tokens) < n {
		return nil, err
	}
	got := p.Tokens[:n]
	p.Tokens = p.Tokens[n:]
	if len(p.Tokens) == 0 {
		return got, tx.Delete(bucketPurses, key)
	}
	return got, write(tx, bucketPurses, key, p)
}

func putInto(tx Tx, o mimimi.TokenOperation, epoch uint64, domain string, tokens [][]byte) error {
	key := purseKey(o, epoch, domain)
	p, found, err := read[purseRecord](tx, bucketPurses, key)
	if err != nil {
		return err
	}
	if !found {
		p = &purseRecord{Epoch: epoch}
	}
	p.Tokens = append(p.Tokens, tokens...)
	return write(tx, bucketPurses, key, p)
}

// earn gets tokens of an operation for a domain: by what was begun, by this week's batch if it has not come yet, or by an exchange.
func (c *Client) earn(ctx context.Context, o mimimi.TokenOperation, domain string) error {
	w, err := c.wallet()
	if err != nil {
		return err
	}
	if w.Exchange != nil {
		return c.exchange(ctx, w.Exchange)
	}
	if domain != c.account.user.Domain() {
		x, err := c.newExchange(ctx, o, domain)
		if err != nil {
			return err
		}
		if x != nil {
			return c.exchange(ctx, x)
		}
	}
	if present := mimimi.TokenEpoch(c.now()); !slices.Contains(w.Have, present) {
		return c.fetchTokens(ctx, present)
	}
	return c.noTokens(o)
}

// fetchTokens asks for the batch of an epoch, on the account channel (§11: always the whole quota). The seed that all tokens come from, and the keys, are stored
// first; a repeat is for the same blinded messages. A batch that was asked for by an older copy of this client is lost.
func (c *Client) fetchTokens(ctx context.Context, epoch uint64) error {
	b, err := c.newBatch(ctx, epoch)
	if err != nil {
		return err
	}
	domain := c.account.user.Domain()
	req := &mimimiv1.IssueTokensRequest{Client: c.account.rec.Client, Epoch: b.Epoch}
	for _, k := range b.Keys {
		batch := &mimimiv1.TokenBatch{Operation: string(k.Operation)}
		for i := range int(k.Quota) {
			m, err := mimimi.BlindToken(&k, domain, domain, mimimi.TokenSeed(b.Seed, k.Operation, i))
			if err != nil {
				return fmt.Errorf("issue tokens: %w", errors.Join(ErrIdentity, err))
			}
			batch.Messages = append(batch.Messages, m)
		}
		req.Batches = append(req.Batches, batch)
	}
	body, err := mimimiv1.IssueTokensBody(req)
	if err != nil {
		return err
	}
	req.Signed = c.signedAccount(opIssueTokens, b.Request, body)
	res, err := call(ctx, c.channels.account.IssueTokens, req)
	if refusesToken(err) {
		return errors.Join(fmt.Errorf("issue tokens: %w", err), c.closeBatch(b, func(tx Tx) error {
			return c.warn(tx, "", "this week's anonymous tokens were given to another copy of this client")
		}))
	}
	if err != nil {
		return fmt.Errorf("issue tokens: %w", err)
	}
	purses, err := c.finishBatch(b, res)
	if err != nil {
		return err
	}
	c.issued = time.Now().Add(c.issuePause())
	return c.closeBatch(b, func(tx Tx) error {
		for _, p := range purses {
			if err := putInto(tx, p.operation, b.Epoch, domain, p.tokens); err != nil {
				return err
			}
		}
		return nil
	})
}

// newBatch returns what an epoch's batch is made of, stored. The keys are those of the key document that all users are shown.
func (c *Client) newBatch(ctx context.Context, epoch uint64) (*batchRecord, error) {
	w, err := c.wallet()
	if err != nil {
		return nil, err
	}
	if w.Batch != nil && w.Batch.Epoch == epoch {
		return w.Batch, nil
	}
	doc, err := c.document(ctx, c.account.user.Domain())
	if err != nil {
		return nil, err
	}
	b := &batchRecord{Epoch: epoch, Seed: random(32), Request: newRequestID(), Keys: doc.IssuerKeysOf(epoch)}
	sum := 0
	for _, k := range b.Keys {
		sum += int(k.Quota)
	}
	if sum == 0 || sum > mimimi.MaxTokenBatch {
		return nil, problem.New(problem.Unavailable, "the provider does not say which anonymous tokens it issues this week")
	}
	return b, c.changeWallet(func(_ Tx, w *walletRecord) error {
		w.Batch = b
		return nil
	})
}

// tokensOf are the tokens of one operation.
type tokensOf struct {
	operation mimimi.TokenOperation
	tokens    [][]byte
}

// finishBatch turns an answer into tokens. A single signature that is none shows that the provider signs with another key than the published one, which
// would tell this client from others: none of them is used.
func (c *Client) finishBatch(b *batchRecord, res *mimimiv1.IssueTokensResponse) (purses []tokensOf, err error) {
	domain := c.account.user.Domain()
	if len(res.Batches) != len(b.Keys) {
		return nil, c.falseSignatures()
	}
	for n, k := range b.Keys {
		signatures := res.Batches[n].GetMessages()
		if len(signatures) != int(k.Quota) {
			return nil, c.falseSignatures()
		}
		p := tokensOf{operation: k.Operation}
		for i, s := range signatures {
			t, err := mimimi.FinishToken(&k, domain, domain, mimimi.TokenSeed(b.Seed, k.Operation, i), s)
			if err != nil {
				return nil, c.falseSignatures()
			}
			p.tokens = append(p.tokens, t.Marshal())
		}
		purses = append(purses, p)
	}
	return purses, nil
}

func (c *Client) falseSignatures() error {
	err := c.update(func(tx Tx) error {
		return c.warn(tx, "", "the provider does not issue anonymous tokens under the keys that it published: they are not used")
	})
	return errors.Join(fmt.Errorf("issue tokens: %w", ErrIdentity), err)
}

// closeBatch ends a batch, with what came of it.
func (c *Client) closeBatch(b *batchRecord, with func(tx Tx) error) error {
	return c.changeWallet(func(tx Tx, w *walletRecord) error {
		if w.Batch == nil || !bytes.Equal(w.Batch.Seed, b.Seed) {
			return nil
		}
		w.Batch = nil
		w.Have = append(w.Have, b.Epoch)
		return with(tx)
	})
}

// newExchange takes eight own tokens of an operation for an exchange, and stores it; nil if there are too few.
func (c *Client) newExchange(ctx context.Context, o mimimi.TokenOperation, domain string) (*exchangeRecord, error) {
	doc, err := c.document(ctx, c.account.user.Domain())
	if err != nil {
		return nil, err
	}
	var x *exchangeRecord
	err = c.changeWallet(func(tx Tx, w *walletRecord) error {
		x = nil
		for _, epoch := range c.spendable() {
			key := doc.IssuerKey(o, epoch)
			if key == nil {
				continue
			}
			tokens, err := takeFrom(tx, o, epoch, c.account.user.Domain(), mimimi.TokenExchange)
			if err != nil {
				return err
			}
			if tokens != nil {
				c.tap(tapOf(o), tokens...)
				x = &exchangeRecord{Key: *key, Domain: domain, Seed: random(32), Request: newRequestID(), Tokens: tokens}
				break
			}
		}
		w.Exchange = x
		return nil
	})
	return x, err
}

// origin is the domain of the i-th token that an exchange gives: half are for the domain that they are needed for, half for the own one again.
func (x *exchangeRecord) origin(i int, own string) string {
	if i < mimimi.TokenExchange/2 {
		return x.Domain
	}
	return own
}

// exchange does a stored exchange, on the anonymous channel. A repeat is the same request. One that is refused for good, or too old, is given up.
func (c *Client) exchange(ctx context.Context, x *exchangeRecord) error {
	own := c.account.user.Domain()
	if x.Key.Epoch < c.spendable()[0] {
		return c.closeExchange(x, func(Tx) error { return nil })
	}
	req := &mimimiv1.ExchangeTokensRequest{RequestId: x.Request, Tokens: x.Tokens}
	for i := range mimimi.TokenExchange {
		m, err := mimimi.BlindToken(&x.Key, own, x.origin(i, own), mimimi.TokenSeed(x.Seed, x.Key.Operation, i))
		if err != nil {
			return fmt.Errorf("exchange tokens: %w", errors.Join(ErrIdentity, err))
		}
		req.Blinded = append(req.Blinded, m)
	}
	res, err := call(ctx, c.channels.relay.ExchangeTokens, req)
	if err != nil && isFinal(err) {
		return c.closeExchange(x, func(Tx) error { return nil })
	}
	if err != nil {
		return fmt.Errorf("exchange tokens: %w", err)
	}
	if len(res.BlindSignatures) != mimimi.TokenExchange {
		return c.falseSignatures()
	}
	got := make(map[string][][]byte) // by redeeming domain
	for i, s := range res.BlindSignatures {
		origin := x.origin(i, own)
		t, err := mimimi.FinishToken(&x.Key, own, origin, mimimi.TokenSeed(x.Seed, x.Key.Operation, i), s)
		if err != nil {
			return c.falseSignatures()
		}
		got[origin] = append(got[origin], t.Marshal())
	}
	return c.closeExchange(x, func(tx Tx) error {
		for origin, tokens := range got { // a purse is written as a whole
			if err := putInto(tx, x.Key.Operation, x.Key.Epoch, origin, tokens); err != nil {
				return err
			}
		}
		return nil
	})
}

func (c *Client) closeExchange(x *exchangeRecord, with func(tx Tx) error) error {
	return c.changeWallet(func(tx Tx, w *walletRecord) error {
		if w.Exchange == nil || !bytes.Equal(w.Exchange.Seed, x.Seed) {
			return nil
		}
		w.Exchange = nil
		return with(tx)
	})
}

// issuePause is how long nothing is spent after a batch came.
func (c *Client) issuePause() time.Duration {
	if c.cfg.Spread <= 0 {
		return 0
	}
	return rand.N(issuePauseMost)
}

// pauseAfterIssue waits until the pause after the last batch is over: what is issued on one channel and what is spent on the other are not to follow each other
// like question and answer. A batch of the week to come is there days before, so this is for a first registration and for who was away.
func (c *Client) pauseAfterIssue(ctx context.Context) error {
	d := time.Until(c.issued)
	if d <= 0 {
		return nil
	}
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-t.C:
		return nil
	case <-ctx.Done():
		return ctx.Err()
	}
}

// keepWallet gets this week's batch if it did not come yet, and next week's at a random time, and forgets tokens that are good no more. Most of the time it
// reads one record.
func (c *Client) keepWallet(ctx context.Context) error {
	w, err := c.wallet()
	if err != nil {
		return err
	}
	now := c.now()
	present := mimimi.TokenEpoch(now)
	if len(w.Have) > 0 && w.Have[0]+1 < present {
		if err := c.forgetTokens(present); err != nil {
			return err
		}
	}
	if !slices.Contains(w.Have, present) {
		return c.fetchTokens(ctx, present)
	}
	if slices.Contains(w.Have, present+1) {
		return nil
	}
	if w.Next != present+1 {
		due := c.nextBatchDue(now)
		return c.changeWallet(func(_ Tx, w *walletRecord) error {
			w.Next, w.Due = present+1, due.Unix()
			return nil
		})
	}
	if now.Unix() < w.Due {
		return nil
	}
	return c.fetchTokens(ctx, present+1)
}

// nextBatchDue draws a time before the next epoch, a day from now at the earliest: what is asked for says nothing about when it will be used.
func (c *Client) nextBatchDue(now time.Time) time.Time {
	first := now.Add(issueAhead)
	window := mimimi.EpochStart(mimimi.TokenEpoch(now) + 1).Sub(first)
	if window <= 0 || c.cfg.Spread <= 0 {
		return first // after the turn: then the batch is the present one's
	}
	return first.Add(rand.N(window))
}

// forgetTokens erases what belongs to epochs before the last one.
func (c *Client) forgetTokens(present uint64) error {
	return c.changeWallet(func(tx Tx, w *walletRecord) error {
		old := func(epoch uint64) bool { return epoch+1 < present }
		w.Have = slices.DeleteFunc(w.Have, old)
		if w.Batch != nil && old(w.Batch.Epoch) {
			w.Batch = nil
		}
		var purses, spendings [][]byte
		err := errors.Join(
			each(tx, bucketPurses, func(k []byte, p *purseRecord) error {
				if old(p.Epoch) {
					purses = append(purses, bytes.Clone(k))
				}
				return nil
			}),
			each(tx, bucketSpending, func(k []byte, s *spendingRecord) error {
				if old(s.Epoch) {
					spendings = append(spendings, bytes.Clone(k))
				}
				return nil
			}))
		for _, k := range purses {
			err = errors.Join(err, tx.Delete(bucketPurses, k))
		}
		for _, k := range spendings {
			err = errors.Join(err, tx.Delete(bucketSpending, k))
		}
		return err
	})
}
