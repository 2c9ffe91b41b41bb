package fault

import (
	"context"
	"encoding/json"
	"fmt"
	"net"
	"os"
	"path/filepath"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"mimimi.example/cmd/mimimi/domain"
	"mimimi.example/pkg/bus"
	"mimimi.example/pkg/client"
	"mimimi.example/pkg/mimimi"
	"mimimi.example/pkg/mls"
	"mimimi.example/pkg/redeem/redeemtest"
)

// ours is the domain under test; other is one on a single node, which stays up.
const ours, other = "a.localhost", "b.localhost"

const (
	replicas   = 2
	partitions = 2
)

// quotas are enough for a minute of changes: signing them is most of what a registration costs.
var quotas = map[mimimi.TokenOperation]uint16{
	mimimi.TokenQueue: 2, mimimi.TokenUpload: 24, mimimi.TokenGroup: 80, mimimi.TokenClaim: 96, mimimi.TokenConnect: 80,
}

// deployment is our domain: the cluster and the replicas of its services. Clients and the other domain reach the providers through one address each listener, as behind a Kubernetes Service.
type deployment struct {
	t        testing.TB
	dir      string
	cluster  *cluster
	services []*replica
	info     client.ProviderInfo
	peer     string // our peer file
}

// replica is one replica of a service.
type replica struct {
	*process
	listens map[string]string // a provider's listeners
	serving atomic.Bool       // new connections are sent to it
}

var listeners = []string{"account", "anonymous", "federation"}

// deploy starts everything. The other domain's peer file need not be there yet.
func deploy(t testing.TB, dir string) *deployment {
	t.Helper()
	d := &deployment{t: t, dir: filepath.Join(dir, ours)}
	if err := domain.Prepare(d.dir, ours); err != nil {
		t.Fatal(err)
	}
	key, err := os.ReadFile(d.path("keys", "deployment.key"))
	if err != nil {
		t.Fatal(err)
	}
	layout := bus.Layout{Partitions: partitions, Replicas: 3, DeploymentKey: key}
	users, err := bus.NewUsers(layout, ours)
	if err != nil {
		t.Fatal(err)
	}
	d.cluster = newCluster(t, d.dir, users)
	d.initialise(layout, users)
	d.balance()
	for i := range replicas {
		for _, name := range []string{"hub", "kpstore", "fanout", "provider"} {
			d.add(name, i)
		}
	}
	for _, r := range d.services {
		r.await()
	}
	d.watch()
	return d
}

func (d *deployment) path(parts ...string) string {
	return filepath.Join(append([]string{d.dir}, parts...)...)
}

// initialise makes the streams, as the deploy job does.
func (d *deployment) initialise(layout bus.Layout, users *bus.Users) {
	d.t.Helper()
	seed, err := users.Seed("admin")
	if err != nil {
		d.t.Fatal(err)
	}
	ctx, cancel := context.WithTimeout(d.t.Context(), patience)
	defer cancel()
	b, err := bus.Connect(ctx, bus.Options{URL: d.cluster.url(), NKeySeed: seed, Service: "admin", Layout: layout})
	if err != nil {
		d.t.Fatal(err)
	}
	// A cluster that has just elected its leader may not know yet what each node has room for: the job is run again, as by its supervisor.
	for err = b.Init(ctx); err != nil; err = b.Init(ctx) {
		select {
		case <-ctx.Done():
			d.t.Fatal(err)
		case <-time.After(poll):
		}
	}
	if err := b.Close(ctx); err != nil {
		d.t.Fatal(err)
	}
}

// balance opens the providers' addresses and writes down what clients and peers need.
func (d *deployment) balance() {
	d.t.Helper()
	urls := make(map[string]string)
	for _, l := range listeners {
		var next atomic.Uint64
		p := newProxy(d.t, func() string {
			var serving []string
			for _, r := range d.services {
				if r.listens != nil && r.serving.Load() {
					serving = append(serving, r.listens[l])
				}
			}
			if len(serving) == 0 {
				return ""
			}
			return serving[next.Add(1)%uint64(len(serving))]
		})
		_, port, err := net.SplitHostPort(p.addr())
		if err != nil {
			d.t.Fatal(err)
		}
		urls[l] = "https://" + l + "." + ours + ":" + port
	}
	ca, err := os.ReadFile(d.path("tls", "ca.pem"))
	if err != nil {
		d.t.Fatal(err)
	}
	b, err := os.ReadFile(d.path("keys", "identity.key"))
	if err != nil {
		d.t.Fatal(err)
	}
	var key mls.SignatureKey
	if err := key.UnmarshalBinary(b); err != nil {
		d.t.Fatal(err)
	}
	d.info = client.ProviderInfo{Domain: ours, AccountURL: urls["account"], AnonymousURL: urls["anonymous"], CA: string(ca), IdentityKey: key.Public()}
	d.peer = write(d.t, d.dir, "peer.json", encode(d.t, map[string]string{"domain": ours, "url": urls["federation"], "ca_pem": string(ca)}))
}

func encode(t testing.TB, v any) []byte {
	t.Helper()
	b, err := json.Marshal(v)
	if err != nil {
		t.Fatal(err)
	}
	return b
}

// add starts a replica of a service.
func (d *deployment) add(name string, i int) {
	d.t.Helper()
	seed, err := d.cluster.users.Seed(name)
	if err != nil {
		d.t.Fatal(err)
	}
	private := freeAddress(d.t)
	key := func(s string) string { return d.path("keys", s) }
	tls := func(s string) string { return d.path("tls", s) }
	cfg := map[string]any{
		"domain":  ours,
		"process": map[string]any{"private_listen": private},
		"bus": map[string]any{
			"url": d.cluster.url(), "nkey_file": write(d.t, d.path("users"), name+".nk", seed), "deployment_key_file": key("deployment.key"), "partitions": partitions, "replicas": 3,
		},
	}
	r := new(replica)
	switch name {
	case "hub", "kpstore":
		cfg["ohttp_key_files"] = []string{key("ohttp-" + name + ".key")}
		if name == "kpstore" {
			cfg["claims_per_hour"], cfg["claims_per_hour_and_issuer"] = 10_000, 10_000 // guests come more often than anybody is let to
		}
	case "provider":
		r.listens = make(map[string]string)
		for _, l := range listeners {
			r.listens[l] = freeAddress(d.t)
			cfg[l+"_listen"], cfg[l+"_cert_file"], cfg[l+"_key_file"] = r.listens[l], tls(l+".pem"), tls(l+".key")
		}
		cfg["identity_key_file"], cfg["queue_secret_file"] = key("identity.key"), key("queue.secret")
		cfg["ohttp_key_files"] = []string{key("ohttp-inbox.key")}
		cfg["ohttp_public"] = map[string][]string{"hub": {key("ohttp-hub.pub")}, "kpstore": {key("ohttp-kpstore.pub")}}
		cfg["peers_dir"], cfg["token_quotas"] = d.path("peers"), quotas
	}
	full := fmt.Sprint(name, "-", i)
	r.process = newProcess(d.t, full, name, write(d.t, d.path("config"), full+".json", encode(d.t, cfg)), "http://"+private+"/readyz")
	d.services = append(d.services, r)
}

// watch keeps asking the providers whether they are ready, as a kubelet does, until the test ends.
func (d *deployment) watch() {
	ctx, cancel := context.WithCancel(context.Background())
	var all sync.WaitGroup
	for _, r := range d.services {
		if r.listens == nil {
			continue
		}
		r.serving.Store(true)
		all.Go(func() {
			tick := time.NewTicker(2 * poll)
			defer tick.Stop()
			for {
				select {
				case <-ctx.Done():
					return
				case <-tick.C:
					r.mu.Lock()
					ending := r.ending
					r.mu.Unlock()
					r.serving.Store(!ending && r.ready())
				}
			}
		})
	}
	d.t.Cleanup(func() { cancel(); all.Wait() })
}

// stop is process.stop, for one that gets no new connections any more.
func (r *replica) stop() {
	r.t.Helper()
	r.end()
	r.serving.Store(false)
	r.process.stop()
}

// startOther runs the other domain, and makes the two known to each other.
func startOther(t testing.TB, dir string, d *deployment) *domain.Domain {
	t.Helper()
	o, err := domain.Start(t.Context(), domain.Options{
		Dir: filepath.Join(dir, other), Domain: other, Peers: []string{d.peer}, TokenQuotas: quotas, NewIssuerKey: redeemtest.IssuerKey,
	})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := o.Stop(context.Background()); err != nil {
			t.Errorf("stop the other domain: %v", err)
		}
	})
	b, err := os.ReadFile(o.PeerFile())
	if err != nil {
		t.Fatal(err)
	}
	write(t, d.path("peers"), other+".json", b)
	return o
}
