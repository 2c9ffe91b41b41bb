// Package domain runs all services of one domain in one process, on an embedded NATS or on one that is named by its URL: for `mimimi up`, for the demo and for tests. It
// makes the domain's keys and certificates itself, in a folder; a deployment of separate programs has these from its operator.
//
// All services run as they do alone: own connections to the bus, own configuration, nothing shared in memory.
package domain

import (
	"context"
	"crypto/rsa"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"log/slog"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"sync"
	"time"

	"github.com/nats-io/nats.go"
	"golang.org/x/sync/errgroup"

	"mimimi.example/pkg/bus"
	"mimimi.example/pkg/client"
	"mimimi.example/pkg/mimimi"
	"mimimi.example/pkg/mls"
	"mimimi.example/pkg/service"
	"mimimi.example/pkg/telemetry"
	"mimimi.example/services/fanout"
	"mimimi.example/services/hub"
	"mimimi.example/services/kpstore"
	"mimimi.example/services/provider"
)

// peerPoll is how often a peer file that has not appeared yet is looked for.
const peerPoll = 500 * time.Millisecond

// connectTime bounds the wait for a NATS server. Services wait for theirs for as long as it takes; a person at a terminal wants to know.
const connectTime = 5 * time.Second

// partitions is how many GROUP, QUEUE and KP streams an embedded domain has: few, since each costs files and a goroutine or two.
const partitions = 4

// Options says how to run a domain. Dir and Domain are required.
type Options struct {
	Dir    string
	Domain string
	// Peers are other domains' peer.json files; one that does not exist yet is waited for.
	Peers []string
	// NATSURL names a server to use; empty: an embedded one, whose state is in the folder.
	NATSURL string
	// NATSKeys is a folder with the keys of that server's users, as `mimimi admin users` writes it; empty: the server takes everybody.
	NATSKeys string
	// Replicas is how many of each service to run; 0 means 1.
	Replicas int
	// Log returns a service's logger; nil: no logs.
	Log func(service string) *slog.Logger
	// Now is the services' clock; nil: time.Now.
	Now func() time.Time
	// TokenQuotas are provider.Config.TokenQuotas.
	TokenQuotas map[mimimi.TokenOperation]uint16
	// NewIssuerKey is provider.Config.NewIssuerKey, for tests.
	NewIssuerKey func(operation mimimi.TokenOperation, epoch uint64) (*rsa.PrivateKey, error)
	// Tap returns what a service reports to the privacy recorder; nil: nothing is reported.
	Tap func(service string) func(kind string, parts ...[]byte)
	// OTLP is telemetry.Options.OTLP, to which all traces go; empty: none are made.
	OTLP string
	// Exports returns what a service's exports are shown to, before they go to OTLP if that is set; nil: nothing.
	Exports func(service string) func(signal string, export []byte)
	// Front returns what stands before a service's handlers (service.Env.Front): a malicious operator, for tests; nil: nothing.
	Front func(service string) func(kind string, h http.Handler) http.Handler
}

// Domain is a running domain.
type Domain struct {
	o      Options
	folder folder
	lock   io.Closer
	state  *state
	server *bus.Server // nil with an external NATS
	users  *bus.Users  // of the embedded server
	admin  *bus.Bus
	buses  []*bus.Bus
	meters []meter
	cancel context.CancelFunc
	done   chan struct{}
	err    error // why the services ended; set before done is closed
}

// peerFile is peer.json: what another domain needs to federate with this one.
type peerFile struct {
	Domain string `json:"domain"`
	URL    string `json:"url"`
	CA     string `json:"ca_pem"`
}

// Start makes what is missing in the folder and runs the domain. It returns once all services serve. Stop ends it.
func Start(ctx context.Context, o Options) (_ *Domain, err error) {
	if o.Replicas == 0 {
		o.Replicas = 1
	}
	if o.Log == nil {
		o.Log = func(string) *slog.Logger { return slog.New(slog.DiscardHandler) }
	}
	if o.Now == nil {
		o.Now = time.Now
	}
	if o.Tap == nil {
		o.Tap = func(string) func(string, ...[]byte) { return nil }
	}
	if err := mimimi.CheckDomain(o.Domain); err != nil {
		return nil, err
	}
	if o.Front == nil {
		o.Front = func(string) func(string, http.Handler) http.Handler { return nil }
	}
	d := &Domain{o: o, folder: folder{o.Dir}, done: make(chan struct{})}
	if d.lock, err = d.folder.lock(); err != nil {
		return nil, err
	}
	if err := d.prepare(); err != nil {
		return nil, errors.Join(err, d.lock.Close())
	}
	run, cancel := context.WithCancel(context.WithoutCancel(ctx))
	d.cancel = cancel
	if err := d.startBus(ctx); err != nil {
		cancel()
		return nil, errors.Join(err, d.closeBus(ctx))
	}
	if err := d.startServices(ctx, run); err != nil {
		return nil, errors.Join(err, d.Stop(ctx))
	}
	return d, nil
}

// prepare makes what is missing in the folder and takes over the peers that are there.
func (d *Domain) prepare() (err error) {
	if d.state, err = d.folder.open(d.o.Domain); err != nil {
		return err
	}
	for _, p := range d.o.Peers {
		if err := d.copyPeer(p); err != nil && !errors.Is(err, fs.ErrNotExist) {
			return fmt.Errorf("peer file: %w", err)
		}
	}
	return nil
}

// startBus starts the embedded server, unless there is an external one, and makes the streams.
func (d *Domain) startBus(ctx context.Context) (err error) {
	if d.o.NATSURL == "" {
		layout, err := d.layout()
		if err != nil {
			return err
		}
		if d.users, err = bus.NewUsers(layout, d.o.Domain); err != nil {
			return err
		}
		if d.server, err = bus.StartServer(bus.ServerOptions{StoreDir: d.folder.path("nats"), Users: d.users}); err != nil {
			return fmt.Errorf("embedded NATS: %w", err)
		}
	}
	if d.admin, err = d.connect(ctx, "admin", nil); err != nil {
		return err
	}
	return d.admin.Init(ctx)
}

// connect is dial for a connection that lives as long as the domain.
func (d *Domain) connect(ctx context.Context, name string, t *telemetry.Telemetry) (*bus.Bus, error) {
	b, err := d.dial(ctx, name, t)
	if err == nil {
		d.buses = append(d.buses, b)
	}
	return b, err
}

func (d *Domain) dial(ctx context.Context, name string, t *telemetry.Telemetry) (*bus.Bus, error) {
	layout, err := d.layout()
	if err != nil {
		return nil, err
	}
	o := bus.Options{URL: d.o.NATSURL, Service: name, Log: t.Log(d.o.Log(name)), Layout: layout, Traces: t.Traces(), Meters: t}
	if d.o.NATSKeys != "" {
		o.NKeyFile = filepath.Join(d.o.NATSKeys, name+".nk")
	}
	if d.server != nil {
		o.InProcess = d.server.InProcess()
		if o.NKeySeed, err = d.users.Seed(name); err != nil {
			return nil, err
		}
	}
	ctx, cancel := context.WithTimeout(ctx, connectTime)
	defer cancel()
	b, err := bus.Connect(ctx, o)
	if err != nil {
		return nil, fmt.Errorf("connect %s to NATS: %w", name, err)
	}
	return b, nil
}

// layout is what all services of the domain share.
func (d *Domain) layout() (bus.Layout, error) {
	key, err := os.ReadFile(d.folder.path("keys", "deployment.key"))
	if err != nil {
		return bus.Layout{}, err
	}
	return bus.Layout{Partitions: partitions, Replicas: 1, DeploymentKey: key}, nil
}

// startServices runs every replica of every service until run ends, and waits until the providers listen.
func (d *Domain) startServices(ctx, run context.Context) error {
	g, run := errgroup.WithContext(run)
	var listening sync.WaitGroup
	for replica := range d.o.Replicas {
		for _, s := range d.services(replica, &listening) {
			env, err := d.env(ctx, s.name)
			if err != nil {
				d.watch(g)
				return err
			}
			g.Go(func() error { return s.run(run, env) })
		}
	}
	d.watch(g)
	ready := make(chan struct{})
	go func() { listening.Wait(); close(ready) }()
	select {
	case <-ready:
	case <-d.done:
		return d.err
	case <-ctx.Done():
		return ctx.Err()
	}
	for _, p := range d.o.Peers {
		go d.followPeer(run, p)
	}
	return d.publish()
}

// env makes what one replica gets from its process.
func (d *Domain) env(ctx context.Context, name string) (*service.Env, error) {
	t, err := d.newMeter(name)
	if err != nil {
		return nil, err
	}
	b, err := d.connect(ctx, name, t)
	if err != nil {
		return nil, err
	}
	return &service.Env{Bus: b, Log: t.Log(d.o.Log(name)), Now: d.o.Now, Tap: d.o.Tap(name), Front: d.o.Front(name), Telemetry: t}, nil
}

// watch closes done when all services have ended.
func (d *Domain) watch(g *errgroup.Group) {
	go func() {
		d.err = g.Wait()
		close(d.done)
	}()
}

// runnable is one replica of a service.
type runnable struct {
	name string
	run  func(context.Context, *service.Env) error
}

// services returns one replica of each. The first provider has the domain's addresses; the others take what is free.
func (d *Domain) services(replica int, listening *sync.WaitGroup) []runnable {
	key := func(name string) string { return d.folder.path("keys", name) }
	h := &hub.Config{Domain: d.o.Domain, OHTTPKeyFiles: []string{key("ohttp-hub.key")}}
	k := &kpstore.Config{Domain: d.o.Domain, OHTTPKeyFiles: []string{key("ohttp-kpstore.key")}}
	f := &fanout.Config{Domain: d.o.Domain}
	p := d.providerConfig(replica, listening)
	return []runnable{
		{"hub", func(ctx context.Context, e *service.Env) error { return hub.Run(ctx, h, e) }},
		{"kpstore", func(ctx context.Context, e *service.Env) error { return kpstore.Run(ctx, k, e) }},
		{"fanout", func(ctx context.Context, e *service.Env) error { return fanout.Run(ctx, f, e) }},
		{"provider", func(ctx context.Context, e *service.Env) error { return provider.Run(ctx, p, e) }},
	}
}

// address returns where a listener of a replica listens: the first one where it did last time, so that clients and peers find it again. The addresses are the
// first provider's to write once it runs, so no other replica looks at them.
func (d *Domain) address(replica int, listener string) string {
	if replica == 0 && d.state.Addresses[listener] != "" {
		return d.state.Addresses[listener]
	}
	return "127.0.0.1:0"
}

// publish writes the files that clients, peers and the next start need.
func (d *Domain) publish() error {
	if err := writeJSON(d.folder.path("domain.json"), d.state); err != nil {
		return err
	}
	return d.publishFiles()
}

// publishFiles writes what clients and peers are given.
func (d *Domain) publishFiles() error {
	info := d.Info()
	if err := writeJSON(d.ClientFile(), info); err != nil {
		return err
	}
	return writeJSON(d.PeerFile(), peerFile{Domain: d.o.Domain, URL: d.FederationURL(), CA: info.CA})
}

// followPeer copies a peer file into the folder as soon as it exists; the provider reads it there.
func (d *Domain) followPeer(ctx context.Context, path string) {
	t := time.NewTicker(peerPoll)
	defer t.Stop()
	for {
		err := d.copyPeer(path)
		if err == nil {
			return
		}
		if !errors.Is(err, fs.ErrNotExist) {
			d.o.Log("domain").LogAttrs(ctx, slog.LevelWarn, "a peer file cannot be used: mend it; it is read again")
		}
		select {
		case <-ctx.Done():
			return
		case <-t.C:
		}
	}
}

func (d *Domain) copyPeer(path string) error {
	b, err := os.ReadFile(path)
	if err != nil {
		return err
	}
	var p peerFile
	if err := json.Unmarshal(b, &p); err != nil {
		return err
	}
	if p.Domain == "" || filepath.Base(p.Domain) != p.Domain {
		return errors.New("the peer file names no domain")
	}
	return writeFile(d.folder.path("peers", p.Domain+".json"), b)
}

// Info returns what a client needs to register here.
func (d *Domain) Info() client.ProviderInfo {
	info := client.ProviderInfo{
		Domain: d.o.Domain, AccountURL: d.url("account"), AnonymousURL: d.url("anonymous"),
	}
	if ca, err := os.ReadFile(d.folder.path("tls", "ca.pem")); err == nil {
		info.CA = string(ca)
	}
	if key, err := d.identityKey(); err == nil {
		info.IdentityKey = key.Public()
	}
	return info
}

func (d *Domain) identityKey() (mls.SignatureKey, error) {
	var k mls.SignatureKey
	b, err := os.ReadFile(d.folder.path("keys", "identity.key"))
	if err != nil {
		return k, err
	}
	return k, k.UnmarshalBinary(b)
}

// url returns a listener's URL: its own host name and the port that it listens on.
func (d *Domain) url(listener string) string {
	_, port, err := net.SplitHostPort(d.state.Addresses[listener])
	if err != nil {
		return ""
	}
	if port == "443" {
		return "https://" + listener + "." + d.o.Domain
	}
	return "https://" + net.JoinHostPort(listener+"."+d.o.Domain, port)
}

// FederationURL is where peers reach the domain.
func (d *Domain) FederationURL() string { return d.url("federation") }

// ClientFile is the file that a client registers with.
func (d *Domain) ClientFile() string { return d.folder.path("client.json") }

// PeerFile is the file that another domain is given.
func (d *Domain) PeerFile() string { return d.folder.path("peer.json") }

// BusFiles is the folder of the embedded server's streams.
func (d *Domain) BusFiles() string { return d.folder.path("nats") }

// Done is closed when the services have ended, asked to or not.
func (d *Domain) Done() <-chan struct{} { return d.done }

// Observe hands every message that passes the embedded bus to f, from one goroutine, until stop is called; stop waits for those on their way. It is the
// operator's view: it sees what any service's NATS user may see.
func (d *Domain) Observe(f func(subject, reply string, header map[string][]string, data []byte)) (stop func() error, err error) {
	if d.server == nil {
		return nil, errors.New("only an embedded bus can be observed")
	}
	c, err := d.server.Connect("observer")
	if err != nil {
		return nil, err
	}
	sub, err := c.Subscribe(">", func(m *nats.Msg) { f(m.Subject, m.Reply, m.Header, m.Data) })
	if err != nil {
		c.Close()
		return nil, err
	}
	if err := errors.Join(sub.SetPendingLimits(-1, -1), c.Flush()); err != nil {
		c.Close()
		return nil, err
	}
	return func() error {
		closed := make(chan struct{})
		c.SetClosedHandler(func(*nats.Conn) { close(closed) })
		if err := c.Drain(); err != nil {
			return err
		}
		<-closed
		return nil
	}, nil
}

// Operator is a connection to the domain's bus as whoever runs its hub has, for tests of what an operator can do. The caller closes it.
func (d *Domain) Operator(ctx context.Context) (*bus.Bus, error) { return d.dial(ctx, "hub", nil) }

// Careless publishes an empty message past the bus's rules, as a careless change of a service would: for tests of what looks for leaks.
func (d *Domain) Careless(subject string, header map[string][]string) error {
	if d.server == nil {
		return errors.New("only an embedded bus can be misused")
	}
	c, err := d.server.Connect("careless")
	if err != nil {
		return err
	}
	defer c.Close()
	return errors.Join(c.PublishMsg(&nats.Msg{Subject: subject, Header: header}), c.Flush())
}

// Stop drains the services, then the bus. What was accepted is kept.
func (d *Domain) Stop(ctx context.Context) error {
	d.cancel()
	select {
	case <-d.done:
	case <-ctx.Done():
		return errors.Join(ctx.Err(), d.closeBus(context.WithoutCancel(ctx)))
	}
	return errors.Join(d.err, d.closeBus(ctx))
}

func (d *Domain) closeBus(ctx context.Context) error {
	errs := []error{d.closeMeters(ctx)}
	for _, b := range d.buses {
		errs = append(errs, b.Close(ctx))
	}
	if d.server != nil {
		d.server.Shutdown()
	}
	return errors.Join(append(errs, d.lock.Close())...)
}
