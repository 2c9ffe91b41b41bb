// Package provider is a domain's face to its clients and to other domains: the account channel, the anonymous channel with relay and queues,
// the federation channel, the inbox, and the delivery of what the domain's hub and others' send to this domain's clients.
//
// Guarantees:
//   - The account side and the anonymous side have listeners, host names, certificates and request handlers of their own, and share no state
//     that depends on a user: nothing here ties a queue or a relayed request to an account. No cookies, no TLS tickets, no access log.
//   - A delivery is acknowledged, to the outbox or to another domain, after it is stored in every recipient's queue that takes it, and not before.
//     Another domain's delivery is taken only for groups of that domain's own hub.
//   - What a queue's quota drops is told to its owner by a notice, per group, except for unconfirmed groups beyond the pool, which a metric counts.
//   - What finds no room in the domain's storage is dropped, not waited for: deliveries after it go on. Its recipient gets a notice if there is
//     room for that; otherwise the delivery is missing between two places of the log, which the next one shows.
//   - The inbox answers alike for users who exist and who do not.
//   - A peer's identity key is pinned on first use; another one is refused.
//   - All state is on the bus. Replicas are interchangeable.
//
// Not guaranteed: delivery once. A client sees a delivery again after a crash, and orders and drops repeats by its place in the log. A quota
// counts what other replicas wrote only from time to time, and may be exceeded by that much. Whoever runs this process sees network
// addresses and the times of requests on both sides.
package provider

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"sync"
	"time"

	"connectrpc.com/connect"
	"golang.org/x/sync/errgroup"

	"mimimi.example/api/mimimi/v1/mimimiv1connect"
	"mimimi.example/pkg/mimimi"
	"mimimi.example/pkg/oblivious"
	"mimimi.example/pkg/problem"
	"mimimi.example/pkg/redeem"
	"mimimi.example/pkg/service"
)

// Run serves until ctx is done, then stops accepting, finishes what it has accepted, and returns. A nil error means that nothing accepted was lost.
func Run(ctx context.Context, cfg *Config, env *service.Env) error {
	p, err := build(ctx, cfg, env)
	if err != nil {
		return err
	}
	defer p.peers.close()
	if err := p.applySettings(ctx); err != nil { // a domain that is denied must not be let in
		return fmt.Errorf("read settings: %w", err)
	}
	p.peers.scan(ctx, cfg.PeersDir) // before anybody asks: a domain that is known must not be denied
	listeners, err := p.listen(cfg)
	if err != nil {
		return err
	}
	if cfg.OnListen != nil {
		cfg.OnListen(listeners[0].Addr().String(), listeners[1].Addr().String(), listeners[2].Addr().String())
	}

	g, ctx := errgroup.WithContext(ctx)
	for _, l := range listeners {
		g.Go(l.serve)
	}
	g.Go(func() error { return env.Bus.Serve(ctx, "inbox", p.gateway.Handle) })
	g.Go(func() error { return redeem.Serve(ctx, env.Bus, p.documents.of) })
	g.Go(func() error {
		p.issuer.makeAhead(ctx, env.Log)
		return nil
	})
	g.Go(func() error {
		p.followSettings(ctx)
		return nil
	})
	g.Go(func() error {
		var consumers sync.WaitGroup
		defer consumers.Wait()
		start := func(domain string) { consumers.Go(func() { p.deliverer.consume(ctx, domain) }) }
		start(cfg.Domain)
		p.peers.follow(ctx, cfg.PeersDir, start)
		return nil
	})
	g.Go(func() error {
		<-ctx.Done() // asked to stop, or the first failure above
		return p.drain(ctx, listeners)
	})
	return g.Wait()
}

// drain ends the hint streams, which would last, and lets everything else end by itself.
func (p *provider) drain(ctx context.Context, listeners []*listener) error {
	close(p.queueSide.watches.stopping)
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), drainTimeout)
	defer cancel()
	errs := make([]error, len(listeners))
	var all sync.WaitGroup
	for i, l := range listeners {
		all.Go(func() { errs[i] = l.shutdown(ctx) })
	}
	all.Wait()
	return errors.Join(errs...)
}

// provider is everything that Run wires together.
type provider struct {
	m         *metrics
	keys      *keys
	env       *service.Env
	peers     *peers
	documents *documents
	revoked   *revocations
	deliverer *deliverer
	gateway   *oblivious.Gateway
	issuer    *issuer
	redeemer  mimimi.Redeemer

	accountSide    *accountSide
	queueSide      *queueSide
	relaySide      *relaySide
	federationSide *federationSide
}

// build makes the parts, from the bottom up.
func build(ctx context.Context, cfg *Config, env *service.Env) (*provider, error) {
	k, err := loadKeys(cfg, env.Now)
	if err != nil {
		return nil, err
	}
	m, err := newMetrics(env.Telemetry)
	if err != nil {
		return nil, err
	}
	known, err := newPeers(cfg, k, env.Log)
	if err != nil {
		return nil, err
	}
	p := &provider{m: m, keys: k, env: env, peers: known}
	if p.issuer, err = newIssuer(cfg, k, env.Bus, env.Now); err != nil {
		return nil, err
	}
	p.documents = &documents{domain: cfg.Domain, keys: k, issued: p.issuer.published, peers: known, bus: env.Bus, now: env.Now, m: m, log: env.Log, held: make(map[string]*heldDocument)}
	if p.redeemer, err = redeem.New(cfg.Domain, env.Bus, env.Now, p.documents.of, env.Telemetry.Meter("mimimi.example/pkg/redeem")); err != nil {
		return nil, err
	}
	p.revoked = newRevocations(p.documents)
	if p.gateway, err = p.inbox(cfg); err != nil {
		return nil, err
	}
	stored := &queues{bus: env.Bus, now: env.Now, m: m, ledgers: newLedgers()}
	p.deliverer = &deliverer{domain: cfg.Domain, bus: env.Bus, queues: stored, peers: known, keys: k.queue, m: m, log: env.Log}
	p.accountSide = &accountSide{domain: cfg.Domain, bus: env.Bus, identity: k.identity, issuer: p.issuer, revocations: p.revoked, now: env.Now, m: m}
	p.queueSide = &queueSide{queues: stored, redeemer: p.redeemer, now: env.Now, m: m, watches: newWatches()}
	p.relaySide = &relaySide{domain: cfg.Domain, bus: env.Bus, peers: known, documents: p.documents, revocations: p.revoked, slots: newSlots(maxRelays), away: newDomainSlots(maxPeerRelays),
		issuer: p.issuer, redeemer: p.redeemer, now: env.Now, m: m}
	p.federationSide = &federationSide{bus: env.Bus, deliverer: p.deliverer, relays: newDomainSlots(maxPeerRelays), notifies: newDomainSlots(maxPeerNotifies)}
	if err := p.firstDocument(ctx); err != nil { // a document that cannot be made is a mistake in the config
		return nil, fmt.Errorf("own key document: %w", err)
	}
	return p, nil
}

// firstDocument makes the own key document, with the issuer keys that it needs. A bus that does not answer yet is asked again for a while.
func (p *provider) firstDocument(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, documentPatience)
	defer cancel()
	for {
		_, err := p.documents.ours(ctx)
		if !isKind(err, problem.Unavailable) {
			return err
		}
		select {
		case <-ctx.Done():
			return err
		case <-time.After(documentPause):
		}
	}
}

// inbox makes the inbox and its gateway.
func (p *provider) inbox(cfg *Config) (*oblivious.Gateway, error) {
	f, err := newFakes(p.keys.fakeSeed)
	if err != nil {
		return nil, err
	}
	side := &inboxSide{domain: cfg.Domain, bus: p.env.Bus, documents: p.documents, fakes: f, redeemer: p.redeemer, now: p.env.Now, m: p.m}
	mux := http.NewServeMux()
	mux.Handle(mimimiv1connect.NewInboxServiceHandler(side, handlerOptions(maxSmallBody)...))
	return oblivious.NewGateway(p.keys.inbox, p.env.Handler("inbox", mux))
}

// handlerOptions bound messages, and turn compression off: what is padded to a size must have that size.
func handlerOptions(maxBody int) []connect.HandlerOption {
	return []connect.HandlerOption{connect.WithReadMaxBytes(maxBody), connect.WithCompression("gzip", nil, nil)}
}

// listen opens the three listeners: account, anonymous, federation. A failure closes those that are open.
func (p *provider) listen(cfg *Config) (listeners []*listener, err error) {
	account, anonymous, federation := http.NewServeMux(), http.NewServeMux(), http.NewServeMux()
	account.Handle(mimimiv1connect.NewAccountServiceHandler(p.accountSide, handlerOptions(maxAccountBody)...))
	anonymous.Handle(mimimiv1connect.NewQueueServiceHandler(p.queueSide, handlerOptions(maxSmallBody)...))
	anonymous.Handle(mimimiv1connect.NewRelayServiceHandler(p.relaySide, handlerOptions(maxRelayBody)...))
	federation.Handle(mimimiv1connect.NewFederationServiceHandler(p.federationSide, handlerOptions(maxNotifyBody)...))
	federation.Handle("GET "+documentPath, p.documents)
	federation.Handle("GET "+revocationsPath, p.revoked)

	perAddress := cfg.ConnectionsPerAddress
	if perAddress == 0 {
		perAddress = defaultConnectionsPerAddress
	}
	for _, c := range []listenerConfig{
		{cfg.AccountListen, "account." + cfg.Domain, serverTLS(p.keys.account), p.env.Handler("account", account), maxAccountBody, perAddress},
		{cfg.AnonymousListen, "anonymous." + cfg.Domain, serverTLS(p.keys.anonymous), p.env.Handler("anonymous", anonymous), maxRelayBody, perAddress},
		{cfg.FederationListen, federationHost(cfg.Domain), p.peers.federationTLS(), p.peers.withPeerDomain(p.env.Handler("federation", federation)), maxNotifyBody, maxConnections},
	} {
		l, err := open(c, p.m)
		if err != nil {
			for _, l := range listeners {
				err = errors.Join(err, l.Close())
			}
			return nil, err
		}
		listeners = append(listeners, l)
	}
	return listeners, nil
}
