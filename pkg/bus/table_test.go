package bus_test

import (
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/nats-io/nats.go/jetstream"

	"mimimi.example/pkg/bus"
	"mimimi.example/pkg/bus/bustest"
	"mimimi.example/pkg/problem"
)

// all returns one subject of every kind for a canary name.
func all(b *bus.Bus, name string) map[string]bus.Subject {
	n := []byte(name)
	return map[string]bus.Subject{
		"handshakes": b.GroupHandshakes(n), "messages": b.GroupMessages(n), "outbox": b.Outbox(name), "body": b.Body(n), "queue": b.Queue(n), "queue meta": b.QueueMeta(n),
		"set": b.KeyPackageSet(n, n), "alias": b.KeyPackageAlias(n), "claim": b.KeyPackageClaim(n), "served": b.KeyPackageServed(n), "inbox": b.Inbox(name),
		"request": b.InboxRequest(n), "issuer": b.IssuerKey(7, n), "account": b.Account(name), "client": b.AccountClient(name), "spent": b.Spent(7, n), "peer": b.PeerKey(name), "links": b.Links(name), "revocations": b.Revocations(name), "dead": b.Dead(), "audit": b.AuditLog(), "setting": b.Setting(name),
	}
}

// TestTable: every subject is in the table of families and in its stream's subjects, and every row of the table and every stream has a constructor.
func TestTable(t *testing.T) {
	d := bustest.StartOpen(t)
	b := d.Bus("hub")
	rows, streams := make(map[string]bool), make(map[string]bool)
	for kind, s := range all(b, "x") {
		pattern := bus.FamilyOf(s.Name())
		if pattern == "" || rows[pattern] {
			t.Errorf("%s: family %q", kind, pattern)
		}
		rows[pattern] = true
		streams[s.Stream()] = true
		publish(t, b, s, "x") // fails if the stream that takes it is another
	}
	families := bus.Families()
	if len(rows) != len(families) {
		t.Errorf("%d families, %d have a constructor", len(families), len(rows))
	}
	services := bus.Services()
	for _, f := range families {
		for _, s := range slices.Concat(f.Writers, f.Readers, f.Senders()) {
			if !slices.Contains(services, s) {
				t.Errorf("%s: unknown service %q", f.Pattern, s)
			}
		}
		if len(f.Writers) == 0 || len(f.Readers) == 0 || f.Zone == "" {
			t.Errorf("%s: incomplete", f.Pattern)
		}
	}
	for _, c := range d.Layout().Streams() {
		kind, _, _ := strings.Cut(c.Name, "_")
		if !slices.ContainsFunc(families, func(f bus.Family) bool { return strings.TrimSuffix(f.Stream, "_{p}") == kind }) {
			t.Errorf("stream %s has no family", c.Name)
		}
		if c.MaxBytes <= 0 || c.MaxMsgSize <= 0 || c.MaxConsumers <= 0 || c.Duplicates <= 0 || c.Storage != jetstream.FileStorage {
			t.Errorf("stream %s has an implicit limit", c.Name)
		}
	}
}

// TestWhatExpires: streams keep what they hold for as long as docs/protocol.md §3 says, in which what is left of a deleted account goes by itself.
func TestWhatExpires(t *testing.T) {
	const day = 24 * time.Hour
	want := map[string]time.Duration{
		"GROUP": 90 * day, "OUTBOX": 30 * day, "BODY": 46 * day, "QUEUE": 45 * day, "QUEUEMETA": 110 * day, "KP": 98 * day, "INBOX": 35 * day, "LINKS": 45 * time.Minute,
		"SPENT": 35 * day, "ISSUER": 42 * day, "DEAD": 30 * day, "AUDIT": 400 * day,
		"KPINDEX":   0,                                          // each record has a time of its own
		"DIRECTORY": 0, "PEERS": 0, "REVOKED": 0, "SETTINGS": 0, // accounts, other domains, and lists whose entries go
	}
	for _, c := range bustest.StartOpen(t).Layout().Streams() {
		kind, _, _ := strings.Cut(c.Name, "_")
		age, ok := want[kind]
		if !ok || c.MaxAge != age {
			t.Errorf("stream %s keeps messages for %v, and the documentation says %v", c.Name, c.MaxAge, age)
		}
	}
}

// TestNoNameInSubjects: a canary shows in no form, and one name under two kinds, or two keys, gives tokens that have nothing in common.
func TestNoNameInSubjects(t *testing.T) {
	d := bustest.StartOpen(t)
	b := d.Bus("provider")
	canary := "mimi://a.example/u/canary"
	sum := sha256.Sum256([]byte(canary))
	tokens := make(map[string]string)
	for kind, s := range all(b, canary) {
		for _, bad := range []string{"canary", hex.EncodeToString([]byte(canary)), hex.EncodeToString(sum[:8])} {
			if strings.Contains(strings.ToLower(s.Name()), bad) {
				t.Errorf("%s shows the name", kind)
			}
		}
		for _, part := range strings.Split(s.Name(), ".") {
			if len(part) != 32 {
				continue
			}
			group := kind == "handshakes" || kind == "messages"
			if other, ok := tokens[part]; ok && !group {
				t.Errorf("%s and %s share a token", kind, other)
			}
			tokens[part] = kind
		}
	}
	if len(tokens) != 20 { // 22 kinds, handshakes and messages share one, a set has two, dead and audit have none
		t.Errorf("%d tokens", len(tokens))
	}
	one, two := d.Layout(), d.Layout()
	two.DeploymentKey = bytes.Repeat([]byte{1}, 32)
	if one.Token("group", "x") == two.Token("group", "x") {
		t.Error("the deployment key does not matter")
	}
	if one.Token("group", "x") == one.Token("grou", "px") {
		t.Error("kind and name run into each other")
	}
}

// TestSubjectsNeverMove pins the mapping: another one would make a deployment lose sight of everything that it stored.
func TestSubjectsNeverMove(t *testing.T) {
	l := bus.Layout{DeploymentKey: bytes.Repeat([]byte{7}, 32)}
	if got, want := l.Token("group", "g"), pinnedToken; got != want {
		t.Errorf("token %q, want %q", got, want)
	}
}

// pinnedToken is lower-case base32 of the first 20 bytes of HMAC-SHA256(07…07, "group" ‖ 00 ‖ "g"), computed with other tools.
const pinnedToken = "mfxvwjpmvolzgltgdjjzr7evktbsw4uy"

func TestLayoutIsChecked(t *testing.T) {
	d := bustest.StartOpen(t)
	for name, change := range map[string]func(*bus.Options){
		"short key":    func(o *bus.Options) { o.Layout.DeploymentKey = o.Layout.DeploymentKey[:31] },
		"no key":       func(o *bus.Options) { o.Layout.DeploymentKey = nil },
		"two replicas": func(o *bus.Options) { o.Layout.Replicas = 2 },
		"partitions":   func(o *bus.Options) { o.Layout.Partitions = 5000 },
		"service":      func(o *bus.Options) { o.Service = "root" },
		"no server":    func(o *bus.Options) { o.InProcess = nil },
		"nkey file":    func(o *bus.Options) { o.NKeyFile = "/nowhere" },
	} {
		o := d.Options("hub")
		change(&o)
		if _, err := bus.Connect(t.Context(), o); err == nil {
			t.Errorf("%s: accepted", name)
		}
	}
}

// connect makes a bus with a changed layout on the same server.
func connect(t *testing.T, d *bustest.Domain, change func(*bus.Layout)) *bus.Bus {
	t.Helper()
	o := d.Options("admin")
	change(&o.Layout)
	b, err := bus.Connect(t.Context(), o)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		ctx, cancel := context.WithTimeout(context.Background(), 5*time.Second)
		defer cancel()
		if err := b.Close(ctx); err != nil {
			t.Error(err)
		}
	})
	return b
}

// TestAnotherLayoutIsRefused: with another key or number of partitions everything would seem to be empty.
func TestAnotherLayoutIsRefused(t *testing.T) {
	d := bustest.StartOpen(t)
	for name, c := range map[string]struct {
		change func(*bus.Layout)
		says   string
	}{
		"key":             {func(l *bus.Layout) { l.DeploymentKey = bytes.Repeat([]byte{1}, 32) }, "deployment key"},
		"more partitions": {func(l *bus.Layout) { l.Partitions = 3 }, "partitions"},
		"fewer":           {func(l *bus.Layout) { l.Partitions = 1 }, "partitions"},
	} {
		b := connect(t, d, c.change)
		if err := b.Verify(t.Context()); err == nil || !strings.Contains(err.Error(), c.says) {
			t.Errorf("%s: verify says %v", name, err)
		}
		if err := b.Init(t.Context()); err == nil || !strings.Contains(err.Error(), c.says) {
			t.Errorf("%s: init says %v", name, err)
		}
	}
}

// TestDrift changes streams behind our back: Verify names the setting, Init repairs what can lose nothing and refuses the rest.
func TestDrift(t *testing.T) {
	for name, c := range map[string]struct {
		stream string
		change func(*jetstream.StreamConfig)
		says   string
		repair bool
	}{
		"lower age":        {"GROUP_0", func(c *jetstream.StreamConfig) { c.MaxAge = time.Hour }, "max_age", true},
		"higher age":       {"QUEUE_0", func(c *jetstream.StreamConfig) { c.MaxAge *= 2 }, "max_age", false},
		"no age":           {"QUEUE_1", func(c *jetstream.StreamConfig) { c.MaxAge = 0 }, "max_age", false},
		"lower bytes":      {"BODY", func(c *jetstream.StreamConfig) { c.MaxBytes = 1 << 20 }, "max_bytes", true},
		"more bytes":       {"BODY", func(c *jetstream.StreamConfig) { c.MaxBytes *= 2 }, "max_bytes", false},
		"more per subject": {"INBOX", func(c *jetstream.StreamConfig) { c.MaxMsgsPerSubject *= 2 }, "max_msgs_per_subject", false},
		"smaller messages": {"INBOX", func(c *jetstream.StreamConfig) { c.MaxMsgSize = 100 }, "max_msg_size", true},
		"window":           {"OUTBOX", func(c *jetstream.StreamConfig) { c.Duplicates = time.Second }, "duplicate_window", true},
		"discard":          {"GROUP_1", func(c *jetstream.StreamConfig) { c.Discard = jetstream.DiscardOld }, "discard", true},
		"direct get":       {"DIRECTORY", func(c *jetstream.StreamConfig) { c.AllowDirect = false }, "allow_direct", true},
		"somebody else's":  {"KPINDEX", func(c *jetstream.StreamConfig) { c.Subjects = append(c.Subjects, "more.*") }, "subjects", false},
		"sent on to another": {"SPENT", func(c *jetstream.StreamConfig) {
			c.RePublish = &jetstream.RePublish{Source: ">", Destination: "copy.>"}
		}, "sources", false},
		"another key": {"SPENT", func(c *jetstream.StreamConfig) { c.Metadata["mimimi_key"] = "x" }, "deployment key", false},
	} {
		t.Run(name, func(t *testing.T) {
			d := bustest.StartOpen(t)
			b := d.Bus("admin")
			s, err := b.JS().Stream(t.Context(), c.stream)
			if err != nil {
				t.Fatal(err)
			}
			config := s.CachedInfo().Config
			c.change(&config)
			if _, err := b.JS().UpdateStream(t.Context(), config); err != nil {
				t.Fatal(err)
			}
			err = b.Verify(t.Context())
			if err == nil || !strings.Contains(err.Error(), c.says) || !strings.Contains(err.Error(), c.stream) || strings.Count(err.Error(), "\n") > 0 {
				t.Errorf("verify says %v", err)
			}
			err = b.Init(t.Context())
			if c.repair && (err != nil || b.Verify(t.Context()) != nil) {
				t.Errorf("not repaired: %v", err)
			}
			if !c.repair && (err == nil || !strings.Contains(err.Error(), c.says)) {
				t.Errorf("init says %v", err)
			}
		})
	}
}

func TestMissingStream(t *testing.T) {
	d := bustest.StartOpen(t)
	b := d.Bus("admin")
	if err := b.JS().DeleteStream(t.Context(), "DEAD"); err != nil {
		t.Fatal(err)
	}
	if err := b.Verify(t.Context()); !errors.Is(err, bus.ErrNotInitialised) || !strings.Contains(err.Error(), "DEAD differs from the table in missing") {
		t.Errorf("verify says %v", err)
	}
	_, err := b.Publish(t.Context(), b.Dead(), []byte("x"), bus.PublishOptions{})
	wantKind(t, err, problem.Unavailable)
	_, err = b.Last(t.Context(), b.Dead())
	wantKind(t, err, problem.Internal)
	_, _, err = b.Read(t.Context(), b.Dead(), 0, 1, 1)
	wantKind(t, err, problem.Unavailable)
}

func TestClosedAndUnreachable(t *testing.T) {
	d := bustest.StartOpen(t)
	b := d.Bus("hub")
	if err := b.Close(t.Context()); err != nil {
		t.Fatal(err)
	}
	wantKind(t, b.Ready(), problem.Unavailable)
	_, err := b.Publish(t.Context(), b.Outbox("x"), nil, bus.PublishOptions{})
	wantKind(t, err, problem.Unavailable)
	if err := b.Close(t.Context()); err != nil {
		t.Errorf("closing twice: %v", err)
	}
	ctx, cancel := context.WithTimeout(t.Context(), time.Second)
	defer cancel()
	o := d.Options("hub")
	o.InProcess, o.URL = nil, "nats://127.0.0.1:1"
	_, err = bus.Connect(ctx, o)
	wantKind(t, err, problem.Unavailable)
}

// TestRestart: what was acknowledged is there after the server came back, and the connection heals by itself.
func TestRestart(t *testing.T) {
	dir := t.TempDir()
	start := func() *bus.Server {
		s, err := bus.StartServer(bus.ServerOptions{StoreDir: dir, SyncAlways: true})
		if err != nil {
			t.Fatal(err)
		}
		return s
	}
	layout := bus.Layout{Partitions: 1, DeploymentKey: bytes.Repeat([]byte{3}, 32)}
	open := func(s *bus.Server) *bus.Bus {
		b, err := bus.Connect(t.Context(), bus.Options{InProcess: s.InProcess(), Service: "admin", Layout: layout})
		if err != nil {
			t.Fatal(err)
		}
		return b
	}
	s := start()
	b := open(s)
	if err := b.Init(t.Context()); err != nil {
		t.Fatal(err)
	}
	seq := publish(t, b, b.GroupHandshakes([]byte("g")), "kept")
	if err := b.Close(t.Context()); err != nil {
		t.Fatal(err)
	}
	s.Shutdown()
	s = start()
	defer s.Shutdown()
	b = open(s)
	m, err := b.Last(t.Context(), b.GroupHandshakes([]byte("g")))
	if err != nil || m.Sequence != seq || string(m.Data) != "kept" {
		t.Errorf("%+v %v", m, err)
	}
	if err := b.Verify(t.Context()); err != nil {
		t.Error(err)
	}
	if err := b.Close(t.Context()); err != nil {
		t.Fatal(err)
	}
}
