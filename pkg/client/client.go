// Package client is the SDK of MIMIMI: what an app imports to be one client of one user. It registers, connects users, makes and joins
// groups, sends and receives (docs/protocol.md §4 to §10).
//
// # Guarantees
//
//   - All state is one file. What is received is stored together with the queue position and the events that it gave in one
//     transaction, and acknowledged after it. What is sent is stored, with the request id that makes a repeat harmless, before it leaves.
//     So a process that is killed at any moment goes on where it was with Open and Sync: nothing is lost, nothing shown twice.
//   - No content and no control message goes into a group while one of its leaves is unidentified, but what protocol.md §4 allows.
//   - The client follows a hub only as far as the rules of protocol.md §9 go: it checks every commit itself.
//   - The account channel and the anonymous channel share no connection, TLS session or host name.
//
// # Non-guarantees
//
//   - Timing and network addresses are visible to the own provider.
//   - Another domain's identity key is trusted on first use, and then pinned; Verify shows fingerprints to compare.
//   - The file is encrypted only if Config.Key or Config.Passphrase is set. An erased key is gone from the records at once, from
//     the file's free pages only when they are used again.
package client

import (
	"context"
	"errors"
	"time"

	"mimimi.example/pkg/mimimi"
)

// Client is one client of one user. Its methods are safe for concurrent use. They run one after the other, so that one may wait while another one waits for
// the network: each waits for its turn no longer than its context lives.
type Client struct {
	cfg  Config
	slot chan struct{} // full for the whole of every exported method: guards all below

	closed    bool
	store     *store
	channels  *channels
	account   *account
	groups    map[string]*group                                  // by local id; loaded when first used, dropped when a transaction fails
	results   map[string]error                                   // of tasks that failed in this process, for the call that waits
	waited    string                                             // the task that a call waits for
	shows     func(o mimimi.TokenOperation, token []byte) []byte // in tests: what is shown in place of a token
	issued    time.Time                                          // when tokens may be spent again after a batch came; by the machine's clock
	own       []string                                           // the user's clients in their own group, in the order of their leaves
	applied   int                                                // how many messages of other own clients were taken in
	waiting   map[string]int                                     // by local id: Welcomes that wait for what another own client has to say, and applied when they were looked at last
	trial     *stockTrial                                        // in tests: what clientCount and leads say where the stock asks
	told      bool                                               // the transaction under way adds to the events
	news      chan struct{}                                      // closed, and replaced, when a transaction has added to the events
	perCommit int                                                // the most Adds of one commit: maxAdds, and less in tests
	comparing bool                                               // a key document is being compared
}

// Register makes a user with its first client in cfg.Dir and everything that others need to reach it: account, connection record, queue, KeyPackage
// sets. Called again after it was interrupted, with the same name, it goes on. userName is the last part of the user's URI.
// Errors: ErrLocked, ErrRegistered, problem errors of the provider (Invalid or Stale: the name is not allowed or taken).
func Register(ctx context.Context, cfg Config, userName string) (*Client, error) {
	if err := cfg.Provider.Validate(); err != nil {
		return nil, err
	}
	user, err := mimimi.ParseUser("mimi://" + cfg.Provider.Domain + "/u/" + userName)
	if err != nil {
		return nil, err
	}
	c, err := open(cfg)
	if err != nil {
		return nil, err
	}
	if err := c.register(ctx, user); err != nil {
		return nil, c.abandon(err)
	}
	return c, nil
}

// Open opens the client in cfg.Dir. It needs no network. Errors: ErrLocked, ErrNotRegistered, ErrStore.
func Open(ctx context.Context, cfg Config) (*Client, error) {
	if err := ctx.Err(); err != nil {
		return nil, err
	}
	if cfg.Store == nil && !hasStore(cfg.Dir) { // nothing is made where nothing was
		return nil, ErrNotRegistered
	}
	c, err := open(cfg)
	if err != nil {
		return nil, err
	}
	if err := c.load(); err != nil {
		return nil, c.abandon(err)
	}
	return c, nil
}

func open(cfg Config) (*Client, error) {
	cfg, err := cfg.withDefaults()
	if err != nil {
		return nil, err
	}
	s, err := openStore(&cfg)
	if err != nil {
		return nil, err
	}
	return &Client{cfg: cfg, slot: make(chan struct{}, 1), store: s, groups: make(map[string]*group), results: make(map[string]error), waiting: make(map[string]int),
		perCommit: maxAdds, news: make(chan struct{})}, nil
}

// load reads the account that the store holds.
func (c *Client) load() error {
	a, found, err := get[accountRecord](c.store, bucketMeta, keyAccount)
	if err != nil {
		return err
	}
	if !found {
		return ErrNotRegistered
	}
	if c.account, err = a.parse(); err != nil {
		return err
	}
	if c.channels, err = newChannels(&a.Provider); err != nil {
		return err
	}
	if err := c.loadOwn(); !errors.Is(err, ErrStore) {
		return err
	}
	local, err := c.deviceGroupID()
	if err != nil {
		return err
	}
	return c.loseGroup(local, a.DeviceGroup)
}

// abandon closes a client that did not come up and returns why.
func (c *Client) abandon(err error) error {
	if cerr := c.Close(); cerr != nil {
		return cerr
	}
	return err
}

// Close releases the store. It waits for a running operation.
func (c *Client) Close() error {
	c.slot <- struct{}{}
	defer func() { <-c.slot }()
	if c.closed {
		return nil
	}
	c.closed = true
	if c.channels != nil {
		c.channels.close()
	}
	return c.store.Close()
}

// User returns the own user.
func (c *Client) User() mimimi.User { return c.account.user }

// Fingerprint returns the own certificate's fingerprint, to be compared out of band. It is empty while the registration is not complete.
// Errors: ErrClosed.
func (c *Client) Fingerprint(ctx context.Context) (f string, err error) {
	err = c.lockedFor(ctx, func() error {
		if c.account.certificate != nil {
			f = c.account.certificate.Fingerprint()
		}
		return nil
	})
	return f, err
}

// lockedFor runs f as the only operation, unless ctx ends before its turn comes: another may wait for the network.
func (c *Client) lockedFor(ctx context.Context, f func() error) error {
	if err := ctx.Err(); err != nil {
		return err
	}
	select {
	case <-ctx.Done():
		return ctx.Err()
	case c.slot <- struct{}{}:
	}
	defer func() { <-c.slot }()
	if c.closed {
		return ErrClosed
	}
	if c.channels != nil {
		c.channels.again.begin()
	}
	return f()
}

func (c *Client) now() time.Time { return c.cfg.Now() }

// tap tells the privacy recorder about sensitive values.
func (c *Client) tap(kind string, values ...[]byte) {
	if c.cfg.Tap != nil {
		c.cfg.Tap(kind, values...)
	}
}

// position is the last queue entry that is processed and stored.
func (c *Client) position() (n uint64, err error) {
	err = c.view(func(tx Tx) error {
		if b := tx.Get(bucketMeta, keyPosition); len(b) == 8 {
			n = fromBigEndian(b)
		}
		return nil
	})
	return n, err
}

// acked is the last queue entry that the queue was told about.
func (c *Client) acked() (n uint64, err error) {
	err = c.view(func(tx Tx) error {
		if b := tx.Get(bucketMeta, keyAcked); len(b) == 8 {
			n = fromBigEndian(b)
		}
		return nil
	})
	return n, err
}
