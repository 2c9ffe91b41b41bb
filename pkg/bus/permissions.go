package bus

import (
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"

	"github.com/nats-io/nats-server/v2/server"
	"github.com/nats-io/nkeys"
)

// Permissions are the subjects that one service's NATS user may publish to and subscribe to. All others are refused; a service that is called may answer besides.
type Permissions struct{ Publish, Subscribe []string }

// call is a service on the bus that is asked by Call.
type call struct {
	name    string
	server  string
	zone    Zone // of what the server does; no trace context comes with a call
	callers []string
}

// calls is the table of calls.
var calls = []call{
	{"hub", serviceHub, ZoneGroup, []string{serviceProvider}},
	{"kpstore", serviceKPStore, ZoneKeyPackage, []string{serviceProvider}},
	{"inbox", serviceProvider, ZoneAccount, []string{serviceProvider}},
	{"redrive", serviceFanout, ZoneGroup, []string{serviceAdmin}},
	{"issuerkeys", serviceProvider, ZoneRelay, []string{serviceHub, serviceKPStore, serviceProvider}},
}

// hinted is, by service, the first token of the subjects that its replicas hint each other about.
var hinted = map[string]string{serviceHub: "group", serviceProvider: "queue"}

// Permissions returns what a service's user needs, and no more, from the table of subjects. domain is the deployment's own.
//
// What this cannot bound: whoever may make consumers of OUTBOX, the provider, may have the server deliver its entries to a subject of any name, since a permission does not look into a request.
func (l Layout) Permissions(service, domain string) Permissions {
	l = l.withDefaults()
	var p Permissions
	publish := func(subjects ...string) { p.Publish = append(p.Publish, subjects...) }
	if service != serviceReplay {
		publish("dead." + service)
	}
	p.Subscribe = append(p.Subscribe, inboxPrefix(service)+".>")
	if service == serviceAdmin {
		publish("$JS.API.>", "$SRV.>", "audit."+serviceAdmin, "setting.*", "$JS.SNAPSHOT.ACK.>", "$JS.SNAPSHOT.RESTORE.>", rpcSubject("redrive"))
		return p.sorted()
	}
	for _, f := range Families() {
		writes, reads := slices.Contains(f.Writers, service), slices.Contains(f.Readers, service)
		if writes && f.Stream != streamDead {
			publish(f.Pattern)
		}
		if slices.Contains(f.Senders(), service) {
			publish("out." + l.token("domain", []byte(domain)))
		}
		for _, stream := range l.streamsOf(f) {
			if reads {
				publish("$JS.API.STREAM.MSG.GET."+stream, "$JS.API.DIRECT.GET."+stream)
			}
			if writes && f.Erasable {
				publish("$JS.API.STREAM.PURGE."+stream, "$JS.API.STREAM.MSG.DELETE."+stream)
			}
		}
	}
	for _, stream := range l.streamsFor(service) {
		publish("$JS.API.STREAM.INFO." + stream)
	}
	switch service {
	case serviceFanout:
		for n := range l.Partitions {
			publish(consuming(streamName(streamGroup, n), fanoutConsumer)...)
		}
	case serviceReplay:
		for n := range l.Partitions {
			publish("$JS.API.CONSUMER.INFO." + streamName(streamGroup, n) + "." + fanoutConsumer) // how far fan-out is
		}
	case serviceProvider:
		publish("$JS.API.CONSUMER.CREATE." + streamOutbox + ".*.out.*")
		publish(consuming(streamOutbox, "*")...)
	}
	for _, c := range calls {
		if slices.Contains(c.callers, service) {
			publish(rpcSubject(c.name))
		}
		if c.server == service {
			p.Subscribe = append(p.Subscribe, rpcSubject(c.name), "$SRV.>")
		}
	}
	if first, ok := hinted[service]; ok {
		publish(hintPrefix + first + ".>")
		p.Subscribe = append(p.Subscribe, hintPrefix+first+".>")
	}
	return p.sorted()
}

// consuming is what working off a consumer takes.
func consuming(stream, name string) []string {
	return []string{
		"$JS.API.CONSUMER.INFO." + stream + "." + name, "$JS.API.CONSUMER.MSG.NEXT." + stream + "." + name, "$JS.API.CONSUMER.UNPIN." + stream + "." + name,
		"$JS.ACK." + stream + "." + name + ".>",
	}
}

func (p Permissions) sorted() Permissions {
	slices.Sort(p.Publish)
	slices.Sort(p.Subscribe)
	return Permissions{slices.Compact(p.Publish), slices.Compact(p.Subscribe)}
}

// streamsOf are the names of the streams that hold a family.
func (l Layout) streamsOf(f Family) []string {
	base, partitioned := strings.CutSuffix(f.Stream, "_{p}")
	if !partitioned {
		return []string{base}
	}
	names := make([]string, l.Partitions)
	for p := range names {
		names[p] = streamName(base, p)
	}
	return names
}

// readBy are the names of the streams that a service reads.
func (l Layout) readBy(service string) []string {
	var names []string
	for _, f := range Families() {
		if slices.Contains(f.Readers, service) && f.Stream != streamDead {
			names = append(names, l.streamsOf(f)...)
		}
	}
	return names
}

// streamsFor are the names of the streams that a service writes or reads, but for DEAD, of which only its readers look at the settings.
func (l Layout) streamsFor(service string) []string {
	var names []string
	for _, f := range Families() {
		if service == serviceAdmin || slices.Contains(f.Readers, service) || slices.Contains(f.Writers, service) && f.Stream != streamDead {
			names = append(names, l.streamsOf(f)...)
		}
	}
	slices.Sort(names)
	return slices.Compact(names)
}

// Users are the NATS users of one deployment, one for each service, each with the service's permissions and an Ed25519 key (NKEY) of its own.
type Users struct {
	layout Layout
	domain string
	keys   map[string]nkeys.KeyPair // by service
}

// NewUsers makes users with fresh keys. domain is the deployment's own.
func NewUsers(l Layout, domain string) (*Users, error) {
	l = l.withDefaults()
	if err := l.validate(); err != nil {
		return nil, err
	}
	u := &Users{layout: l, domain: domain, keys: make(map[string]nkeys.KeyPair)}
	for _, s := range services {
		key, err := nkeys.CreateUser()
		if err != nil {
			return nil, fmt.Errorf("make a NATS user: %w", err)
		}
		u.keys[s] = key
	}
	return u, nil
}

// Seed is the private half of a service's key, in the form of Options.NKeySeed and of the file that Options.NKeyFile names. Errors: the service is none.
func (u *Users) Seed(service string) ([]byte, error) {
	key, ok := u.keys[service]
	if !ok {
		return nil, errService
	}
	seed, err := key.Seed()
	if err != nil {
		return nil, fmt.Errorf("read a NATS user's key: %w", err)
	}
	return seed, nil
}

var errService = errors.New("bus: the service must be one of hub, kpstore, fanout, provider, admin, replay")

// Config is the part of a NATS server's configuration that takes these users and nobody else, with the public halves of their keys: for a server that runs by itself.
func (u *Users) Config() (string, error) {
	type allow struct {
		Allow []string `json:"allow"`
	}
	type permissions struct {
		Publish   allow          `json:"publish"`
		Subscribe allow          `json:"subscribe"`
		Responses map[string]any `json:"allow_responses"`
	}
	type user struct {
		NKey        string      `json:"nkey"`
		Permissions permissions `json:"permissions"`
	}
	all, err := u.nkeyUsers()
	if err != nil {
		return "", err
	}
	var section struct {
		Users []user `json:"users"`
	}
	for _, n := range all {
		p := n.Permissions
		section.Users = append(section.Users, user{n.Nkey, permissions{
			allow{p.Publish.Allow}, allow{p.Subscribe.Allow}, map[string]any{"max": p.Response.MaxMsgs, "expires": p.Response.Expires.String()},
		}})
	}
	var text strings.Builder
	e := json.NewEncoder(&text)
	e.SetIndent("", "  ")
	e.SetEscapeHTML(false) // the server does not know \u
	if err := e.Encode(section); err != nil {
		return "", fmt.Errorf("write the NATS users: %w", err)
	}
	return "authorization: " + text.String(), nil
}

// nkeyUsers are the users as the server takes them.
func (u *Users) nkeyUsers() ([]*server.NkeyUser, error) {
	var all []*server.NkeyUser
	for _, s := range slices.Sorted(maps.Keys(u.keys)) {
		public, err := u.keys[s].PublicKey()
		if err != nil {
			return nil, fmt.Errorf("read a NATS user's key: %w", err)
		}
		p := u.layout.Permissions(s, u.domain)
		all = append(all, &server.NkeyUser{Nkey: public, Permissions: &server.Permissions{
			Publish: &server.SubjectPermission{Allow: p.Publish}, Subscribe: &server.SubjectPermission{Allow: p.Subscribe},
			Response: &server.ResponsePermission{MaxMsgs: 1, Expires: 2 * callTimeout},
		}})
	}
	return all, nil
}
