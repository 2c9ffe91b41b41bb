package bus_test

import (
	"errors"
	"slices"
	"strings"
	"testing"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nkeys"

	"mimimi.example/pkg/bus"
	"mimimi.example/pkg/bus/bustest"
)

// who are the users of a deployment.
var who = []string{"hub", "kpstore", "fanout", "provider", "admin", "replay"}

// attempt is what somebody might do on the bus, and who may.
type attempt struct {
	what    string
	publish string // one of the two
	listen  string
	may     []string
}

// attempts are told from the architecture's table, not from the code's: who writes and reads what, who calls whom, and that nobody but the admin service touches streams. They are one table, to be read beside that one.
func attempts(b *bus.Bus) []attempt {
	const api = "$JS.API."
	hub, kpstore, fanout, provider, admin, replay := "hub", "kpstore", "fanout", "provider", "admin", "replay"
	only := func(s ...string) []string { return s }
	all := []attempt{
		{"write a group's handshakes", b.GroupHandshakes([]byte("g")).Name(), "", only(hub)},
		{"write a group's messages", b.GroupMessages([]byte("g")).Name(), "", only(hub)},
		{"write a delivery to the own domain", b.Outbox(bustest.Own).Name(), "", only(fanout, kpstore)},
		{"write a delivery to another domain", b.Outbox("b.example").Name(), "", only(fanout)},
		{"write into a queue", b.Queue([]byte("q")).Name(), "", only(provider)},
		{"write a queue's record", b.QueueMeta([]byte("q")).Name(), "", only(provider)},
		{"write a body", b.Body([]byte("h")).Name(), "", only(provider)},
		{"write a KeyPackage set", b.KeyPackageSet([]byte("o"), []byte("s")).Name(), "", only(kpstore)},
		{"write an alias", b.KeyPackageAlias([]byte("t")).Name(), "", only(kpstore)},
		{"write a claim", b.KeyPackageClaim([]byte("t")).Name(), "", only(kpstore)},
		{"write an account", b.Account("u").Name(), "", only(provider)},
		{"write a client", b.AccountClient("c").Name(), "", only(provider)},
		{"write a connection request", b.Inbox("u").Name(), "", only(provider)},
		{"write a link", b.Links("u").Name(), "", only(provider)},
		{"write a revocation list", b.Revocations("a.example").Name(), "", only(provider)},
		{"write a peer's key", b.PeerKey("b.example").Name(), "", only(provider)},
		{"write an issuer key", b.IssuerKey(1, []byte("k")).Name(), "", only(provider)},
		{"mark a token as spent", b.Spent(1, []byte("n")).Name(), "", only(provider, hub, kpstore)},
		{"bury in the hub's name", "dead.hub", "", only(hub)},
		{"bury in fan-out's name", "dead.fanout", "", only(fanout)},
		{"write a setting", b.Setting("s").Name(), "", only(admin)},
		{"write the audit log", "audit.admin", "", only(admin)},
		{"bury in replay's name", "dead.replay", "", nil},

		{"listen to everything", "", ">", nil},
		{"listen to groups", "", "group.>", nil},
		{"listen to queues", "", "queue.>", nil},
		{"listen to deliveries", "", "out.>", nil},
		{"listen to requests to JetStream", "", api + ">", nil},
		{"listen to acknowledgements", "", "$JS.ACK.>", nil},
		{"listen to advisories", "", "$JS.EVENT.>", nil},
		{"listen to the system account's events", "", "$SYS.>", nil},
		{"ask the system account", "$SYS.REQ.SERVER.PING", "", nil},
		{"ask who uses the server", "$SYS.REQ.ACCOUNT.PING.CONNZ", "", nil},

		{"call the hub", "rpc.hub", "", only(provider)},
		{"call the store", "rpc.kpstore", "", only(provider)},
		{"call the inbox", "rpc.inbox", "", only(provider)},
		{"ask for issuer keys", "rpc.issuerkeys", "", only(provider, hub, kpstore)},
		{"have an entry worked off again", "rpc.redrive", "", only(admin)},
		{"answer for fan-out", "", "rpc.redrive", only(fanout)},
		{"answer for the hub", "", "rpc.hub", only(hub)},
		{"answer for the store", "", "rpc.kpstore", only(kpstore)},
		{"answer for the inbox", "", "rpc.inbox", only(provider)},
		{"answer for the issuer", "", "rpc.issuerkeys", only(provider)},
		{"listen to calls of every service", "", "rpc.>", nil},
		{"hint of a group", "hint." + b.GroupHandshakes([]byte("g")).Name(), "", only(hub)},
		{"listen to hints of groups", "", "hint.group.>", only(hub)},
		{"hint of a queue", "hint." + b.Queue([]byte("q")).Name(), "", only(provider)},
		{"listen to hints of queues", "", "hint.queue.>", only(provider)},
		{"ask what services there are", "$SRV.INFO", "", only(admin)},

		{"make a stream", api + "STREAM.CREATE.MINE", "", only(admin)},
		{"list the streams", api + "STREAM.NAMES", "", only(admin)},
		{"list the consumers of GROUP_0", api + "CONSUMER.NAMES.GROUP_0", "", only(admin)},
		{"take a snapshot's pieces", "$JS.SNAPSHOT.ACK.GROUP_0.x.1.1", "", only(admin)},
		{"restore a stream", "$JS.SNAPSHOT.RESTORE.GROUP_0.x", "", only(admin)},
		{"begin to restore a stream", api + "STREAM.RESTORE.GROUP_0", "", only(admin)},
		{"make a consumer of GROUP_0", api + "CONSUMER.CREATE.GROUP_0.mine", "", only(admin)},
		{"make a consumer of QUEUE_0", api + "CONSUMER.CREATE.QUEUE_0.mine", "", only(admin)},
		{"make a consumer of all of OUTBOX", api + "CONSUMER.CREATE.OUTBOX.mine", "", only(admin)},
		{"make a consumer of a domain's part of OUTBOX", api + "CONSUMER.CREATE.OUTBOX.mine." + b.Outbox("b.example").Name(), "", only(admin, provider)},
		{"delete fan-out's consumer", api + "CONSUMER.DELETE.GROUP_0.fanout", "", only(admin)},
		{"see how far fan-out is", api + "CONSUMER.INFO.GROUP_0.fanout", "", only(admin, fanout, replay)},
		{"take fan-out's messages", api + "CONSUMER.MSG.NEXT.GROUP_0.fanout", "", only(admin, fanout)},
		{"acknowledge fan-out's messages", "$JS.ACK.GROUP_0.fanout.1.1.1.1.1", "", only(fanout)},
		{"acknowledge deliveries", "$JS.ACK.OUTBOX.mine.1.1.1.1.1", "", only(provider)},
	}
	for stream, readers := range map[string][]string{
		"GROUP_0": {hub, fanout, replay}, "GROUP_1": {hub, fanout, replay}, "OUTBOX": {provider, replay}, "QUEUE_0": {provider}, "QUEUEMETA": {provider}, "BODY": {provider}, "KP_0": {kpstore},
		"KPINDEX": {kpstore}, "DIRECTORY": {provider}, "INBOX": {provider}, "LINKS": {provider}, "PEERS": {provider}, "REVOKED": {provider}, "ISSUER": {provider},
		"SPENT": {provider, hub, kpstore}, "DEAD": {replay}, "AUDIT": nil, "SETTINGS": {provider},
	} {
		erasers := map[string][]string{"QUEUE_0": {provider}, "KP_0": {kpstore}, "INBOX": {provider}, "LINKS": {provider}}[stream]
		info := slices.Clone(readers)
		if stream == "OUTBOX" {
			info = append(info, fanout) // which writes it, and checks at its start that it is as it should be
		}
		all = append(all,
			attempt{"read " + stream, api + "DIRECT.GET." + stream, "", append(only(admin), readers...)},
			attempt{"read the leader's " + stream, api + "STREAM.MSG.GET." + stream, "", append(only(admin), readers...)},
			attempt{"count what is in " + stream, api + "STREAM.INFO." + stream, "", append(only(admin), info...)},
			attempt{"purge " + stream, api + "STREAM.PURGE." + stream, "", append(only(admin), erasers...)},
			attempt{"delete a message of " + stream, api + "STREAM.MSG.DELETE." + stream, "", append(only(admin), erasers...)},
			attempt{"change " + stream, api + "STREAM.UPDATE." + stream, "", only(admin)},
			attempt{"delete " + stream, api + "STREAM.DELETE." + stream, "", only(admin)},
			attempt{"take a snapshot of " + stream, api + "STREAM.SNAPSHOT." + stream, "", only(admin)},
		)
	}
	for _, s := range who {
		all = append(all, attempt{"listen to answers for " + s, "", "_INBOX_" + s + ".>", only(s)}, attempt{"answer " + s + " unasked", "_INBOX_" + s + ".x", "", nil})
	}
	return all
}

// TestPermissions: every user tries all of it, and is refused what it may not.
func TestPermissions(t *testing.T) {
	t.Parallel()
	d := bustest.Start(t)
	b := d.Bus("hub")
	t.Run("embedded", func(t *testing.T) {
		tryAll(t, b, func(user string) (*nats.Conn, error) {
			o := d.Options(user)
			return connectAs(o.NKeySeed, "", nats.InProcessServer(o.InProcess))
		})
	})
	t.Run("configured", func(t *testing.T) {
		users, err := bus.NewUsers(d.Layout(), bustest.Own)
		if err != nil {
			t.Fatal(err)
		}
		text, err := users.Config()
		if err != nil {
			t.Fatal(err)
		}
		url := bustest.Configured(t, text, "1GB")
		tryAll(t, b, func(user string) (*nats.Conn, error) {
			seed, err := users.Seed(user)
			if err != nil {
				return nil, err
			}
			return connectAs(seed, url)
		})
	})
}

func tryAll(t *testing.T, b *bus.Bus, connect func(user string) (*nats.Conn, error)) {
	t.Helper()
	refused, let := 0, 0
	for _, user := range who {
		for _, a := range attempts(b) {
			ok := attemptAs(t, func() (*nats.Conn, error) { return connect(user) }, a)
			if want := slices.Contains(a.may, user); ok != want {
				t.Errorf("%s may %s: %v, want %v", user, a.what, ok, want)
			}
			if ok {
				let++
			} else {
				refused++
			}
		}
	}
	t.Logf("%d attempts were refused, %d were not", refused, let)
}

// attemptAs says whether the server lets a user do it. The answer of a ping comes after a refusal.
func attemptAs(t *testing.T, connect func() (*nats.Conn, error), a attempt) bool {
	t.Helper()
	nc, err := connect()
	if err != nil {
		t.Fatalf("connect: %v", err)
	}
	defer nc.Close()
	if a.listen != "" {
		_, err = nc.SubscribeSync(a.listen)
	} else {
		err = nc.PublishMsg(&nats.Msg{Subject: a.publish, Data: []byte("x")})
	}
	if err := errors.Join(err, nc.Flush()); err != nil {
		t.Fatalf("%s: %v", a.what, err)
	}
	err = nc.LastError()
	if err != nil && !errors.Is(err, nats.ErrPermissionViolation) {
		t.Fatalf("%s: %v", a.what, err)
	}
	return err == nil
}

func connectAs(seed []byte, url string, opts ...nats.Option) (*nats.Conn, error) {
	key, err := nkeys.FromSeed(seed)
	if err != nil {
		return nil, err
	}
	public, err := key.PublicKey()
	if err != nil {
		return nil, err
	}
	return nats.Connect(url, append(opts, nats.Nkey(public, key.Sign), nats.ErrorHandler(func(*nats.Conn, *nats.Subscription, error) {}))...)
}

// TestUsers: the server takes the users that it was given, and nobody else.
func TestUsers(t *testing.T) {
	t.Parallel()
	d := bustest.StartReachable(t) // through a pipe a refusal cannot be told from a server that is gone
	o := d.Options("hub")
	if nc, err := nats.Connect(o.URL); err == nil {
		nc.Close()
		t.Error("somebody without a key was let in")
	}
	o.NKeySeed = d.Options("fanout").NKeySeed
	if _, err := bus.Connect(t.Context(), o); err == nil || !strings.Contains(err.Error(), "the NATS user is another service's") {
		t.Errorf("a hub with fan-out's key: %v", err)
	}
	other, err := bus.NewUsers(d.Layout(), bustest.Own)
	if err != nil {
		t.Fatal(err)
	}
	if o.NKeySeed, err = other.Seed("hub"); err != nil {
		t.Fatal(err)
	}
	if _, err := bus.Connect(t.Context(), o); err == nil || !strings.Contains(err.Error(), "refused this service's credentials") {
		t.Errorf("a hub with another deployment's key: %v", err)
	}
	if _, err := other.Seed("root"); err == nil {
		t.Error("there is a user that is no service")
	}
	if _, err := bus.NewUsers(bus.Layout{Replicas: 2}, bustest.Own); err == nil {
		t.Error("a layout that cannot be has users")
	}
}
