package fault

import (
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"
	"github.com/nats-io/nkeys"

	"mimimi.example/pkg/bus"
)

const nodes = 3

// cluster is three NATS servers that take the deployment's users and nobody else.
type cluster struct {
	t        testing.TB
	nodes    []*process
	urls     []string
	monitors []string
	links    [nodes][nodes]*proxy // of routes, from one node to another
	users    *bus.Users
}

func nodeName(i int) string { return fmt.Sprint("node-", i) }

// newCluster starts the servers and waits until they have elected who leads. Routes between them go through proxies that can be cut; no server tells the others of a way around.
func newCluster(t testing.TB, dir string, users *bus.Users) *cluster {
	t.Helper()
	c := &cluster{t: t, users: users}
	auth, err := users.Config()
	if err != nil {
		t.Fatal(err)
	}
	var routes []string
	for range nodes {
		c.urls, c.monitors, routes = append(c.urls, freeAddress(t)), append(c.monitors, freeAddress(t)), append(routes, freeAddress(t))
	}
	for i := range nodes {
		var others []string
		for j := range nodes {
			if i != j {
				c.links[i][j] = newProxy(t, func() string { return routes[j] })
				others = append(others, `"nats://`+c.links[i][j].addr()+`"`)
			}
		}
		folder := filepath.Join(dir, nodeName(i))
		conf := fmt.Sprintf(`server_name: %q
listen: %q
http: %q
max_payload: 8MB
jetstream { store_dir: %q, max_file_store: 1TB, sync_interval: always }
cluster { name: "fault", listen: %q, advertise: "127.0.0.1:1", routes: [%s] }
log_file: %q
%s`, nodeName(i), c.urls[i], c.monitors[i], filepath.Join(folder, "store"), routes[i], strings.Join(others, ", "), filepath.Join(folder, "log"), auth)
		c.nodes = append(c.nodes, newProcess(t, nodeName(i), roleNode, write(t, folder, "nats.conf", []byte(conf)), "http://"+c.monitors[i]+"/healthz"))
	}
	eventually(t, "the cluster", c.whole)
	return c
}

// url is all servers.
func (c *cluster) url() string { return "nats://" + strings.Join(c.urls, ",nats://") }

// isolate cuts a node off from the others, or lets it back.
func (c *cluster) isolate(node int, cut bool) {
	for other := range nodes {
		if other != node {
			c.links[node][other].pass(!cut)
			c.links[other][node].pass(!cut)
		}
	}
}

// meta is what a node says of the cluster's own Raft group, which makes streams and consumers.
type meta struct {
	Leader   string `json:"leader"`
	Replicas []struct {
		Current bool `json:"current"`
		Offline bool `json:"offline"`
	} `json:"replicas"`
}

// asked reads what a node's monitor says; false if it says nothing now.
func (c *cluster) asked(node int, what string, says any) bool {
	res, err := probes.Get("http://" + c.monitors[node] + what)
	if err != nil {
		return false
	}
	defer res.Body.Close()
	return json.NewDecoder(res.Body).Decode(says) == nil
}

// metaLeader is the node that leads the cluster, and what it says; -1 if there is none now.
func (c *cluster) metaLeader() (int, meta) {
	for i := range nodes {
		var says struct {
			Meta meta `json:"meta_cluster"`
		}
		if c.asked(i, "/jsz", &says) && says.Meta.Leader == nodeName(i) {
			return i, says.Meta
		}
	}
	return -1, meta{}
}

// whole says whether all nodes are there, reach each other and have a leader.
func (c *cluster) whole() bool {
	leader, says := c.metaLeader()
	if leader < 0 || len(says.Replicas) != nodes-1 {
		return false
	}
	for _, r := range says.Replicas {
		if r.Offline || !r.Current {
			return false
		}
	}
	for i, n := range c.nodes {
		if !c.reachesAll(i) || !n.ready() {
			return false
		}
	}
	return true
}

// reachesAll says whether a node has a route to each of the others.
func (c *cluster) reachesAll(node int) bool {
	var says struct {
		Routes []struct {
			Name string `json:"remote_name"`
		} `json:"routes"`
	}
	if !c.asked(node, "/routez", &says) {
		return false
	}
	to := make(map[string]bool)
	for _, r := range says.Routes {
		to[r.Name] = true
	}
	return len(to) == nodes-1
}

// streamLeader is the node that leads a stream, -1 if none does now.
func (c *cluster) streamLeader(stream string) int {
	s, err := c.operator().Stream(c.t.Context(), stream)
	if err != nil || s.CachedInfo().Cluster == nil {
		return -1
	}
	for i := range nodes {
		if s.CachedInfo().Cluster.Leader == nodeName(i) {
			return i
		}
	}
	return -1
}

// operator is a connection as the admin service's user.
func (c *cluster) operator() jetstream.JetStream {
	c.t.Helper()
	seed, err := c.users.Seed("admin")
	if err != nil {
		c.t.Fatal(err)
	}
	key, err := nkeys.FromSeed(seed)
	if err != nil {
		c.t.Fatal(err)
	}
	public, err := key.PublicKey()
	if err != nil {
		c.t.Fatal(err)
	}
	nc, err := nats.Connect(c.url(), nats.Nkey(public, key.Sign), nats.CustomInboxPrefix("_INBOX_admin"), nats.MaxReconnects(-1))
	if err != nil {
		c.t.Fatal(err)
	}
	c.t.Cleanup(nc.Close)
	js, err := jetstream.New(nc)
	if err != nil {
		c.t.Fatal(err)
	}
	return js
}

// write makes a file of a folder, and the folder.
func write(t testing.TB, dir, name string, content []byte) (path string) {
	t.Helper()
	if err := os.MkdirAll(dir, 0o700); err != nil {
		t.Fatal(err)
	}
	path = filepath.Join(dir, name)
	if err := os.WriteFile(path, content, 0o600); err != nil {
		t.Fatal(err)
	}
	return path
}
