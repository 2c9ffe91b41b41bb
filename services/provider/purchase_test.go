package provider

import (
	"context"
	"os"
	"strings"
	"testing"
	"time"

	"google.golang.org/protobuf/proto"

	mimimiv1 "mimimi.example/api/mimimi/v1"
	"mimimi.example/pkg/bus/bustest"
	"mimimi.example/pkg/mimimi"
	"mimimi.example/pkg/redeem/redeemtest"
	"mimimi.example/pkg/service"
	"mimimi.example/pkg/service/servicetest"
)

// addressesSuffix makes the name of the file in which a provider that is a process says where it listens, from that of its configuration.
const addressesSuffix = ".addresses"

// pollPause is between two looks at that file.
const pollPause = 10 * time.Millisecond

func TestMain(m *testing.M) {
	servicetest.Main(m, "provider", func(path string) (service.Run, error) {
		cfg, err := Load(path)
		if err != nil {
			return nil, err
		}
		cfg.NewIssuerKey = redeemtest.IssuerKey
		var written error
		cfg.OnListen = func(account, anonymous, federation string) {
			file := path + addressesSuffix // it appears whole
			written = os.WriteFile(file+".new", []byte(strings.Join([]string{account, anonymous, federation}, " ")), 0o600)
			if written == nil {
				written = os.Rename(file+".new", file)
			}
		}
		return func(ctx context.Context, e *service.Env) error {
			if err := Run(ctx, cfg, e); err != nil {
				return err
			}
			return written
		}, nil
	})
}

// process is a provider that is a process, and what it sells.
type process[D any] struct {
	*servicetest.Process
	buy func(ctx context.Context, deed D, id [16]byte, token []byte) (proto.Message, error)
}

// Buy implements redeemtest.Replica.
func (p *process[D]) Buy(ctx context.Context, deed D, id [16]byte, token []byte) ([]byte, error) {
	answer, err := p.buy(ctx, deed, id, token)
	if err != nil {
		return nil, err
	}
	return proto.MarshalOptions{Deterministic: true}.Marshal(answer)
}

// open starts a replica behind a gate as a process, and waits until it listens.
func (d *testDomain) open(g *bustest.Gate) (*servicetest.Process, *replica) {
	d.t.Helper()
	cfg := *d.cfg
	section := d.bus.Section("provider", g.URL())
	cfg.Bus = service.BusConfig{
		URL: g.URL(), DeploymentKeyFile: section["deployment_key_file"].(string), NKeyFile: section["nkey_file"].(string), Partitions: section["partitions"].(int),
	}
	started := servicetest.Start(d.t, &cfg)
	deadline := time.Now().Add(2 * time.Minute)
	for {
		b, err := os.ReadFile(started.Config + addressesSuffix)
		if at := strings.Fields(string(b)); err == nil && len(at) == 3 {
			return started, &replica{d: d, bus: d.bus.Bus("provider"), account: at[0], anonymous: at[1], federation: at[2]}
		}
		if time.Now().After(deadline) {
			d.t.Fatalf("the provider does not listen: %v", err)
		}
		<-time.After(pollPause)
	}
}

// newProcesses is a domain whose providers are processes, on the clock of the machine.
func newProcesses(t *testing.T) *testDomain {
	t.Helper()
	return newDomainOn(t, "a.example", bustest.StartReachable(t))
}

// queueShop is a provider that sells queues.
func queueShop(d *testDomain) *redeemtest.Shop[*testQueue] {
	here := d.bus.Bus("provider")
	return &redeemtest.Shop[*testQueue]{
		Domain: d.bus, Name: d.name, Operation: mimimi.TokenQueue,
		Open: func(g *bustest.Gate) redeemtest.Replica[*testQueue] {
			started, r := d.open(g)
			rpc := r.queues()
			return &process[*testQueue]{started, func(ctx context.Context, q *testQueue, id [16]byte, token []byte) (proto.Message, error) {
				return rpc.Create(ctx, q.creationAs(id, token))
			}}
		},
		New: func() *testQueue {
			return &testQueue{t: d.t, d: d, id: mimimi.NewQueueID(), key: must(mimimi.Suite.GenerateSignatureKey()), now: time.Now}
		},
		Done: func(q *testQueue) int { return must(here.Count(d.t.Context(), here.QueueMeta(q.id.Bytes()))) },
	}
}

// creationAs is a creation under a request id of one's own choice.
func (q *testQueue) creationAs(id [16]byte, token []byte) *mimimiv1.CreateQueueRequest {
	minute := q.now().Truncate(time.Minute).UTC()
	signature := mimimi.SignQueueRequest(q.key, &mimimi.QueueRequest{Operation: "create", Queue: q.id, RequestID: id, Minute: minute, Body: q.key.Public()})
	return &mimimiv1.CreateQueueRequest{
		QueueId: q.id.Bytes(), PublicKey: q.key.Public(), Token: token, Signed: &mimimiv1.Signed{RequestId: id[:], Minute: minute.Unix() / 60, Signature: signature},
	}
}

// asked is a connection request for somebody who has got no other.
type asked struct {
	user   string
	sealed []byte
}

// inboxShop is a provider that sells places in its inboxes.
func inboxShop(d *testDomain) *redeemtest.Shop[asked] {
	here := d.start() // to register who is asked: it ends before the first process begins
	users := make(chan asked, 64)
	for i := range cap(users) {
		p := here.register("user" + string(rune('a'+i/26)) + string(rune('a'+i%26)))
		users <- asked{p.user.Wire(), randomRequest()}
	}
	here.stop()
	b := d.bus.Bus("provider")
	return &redeemtest.Shop[asked]{
		Domain: d.bus, Name: d.name, Operation: mimimi.TokenConnect,
		Open: func(g *bustest.Gate) redeemtest.Replica[asked] {
			started, r := d.open(g)
			inbox := r.inbox(d.name)
			return &process[asked]{started, func(ctx context.Context, a asked, id [16]byte, token []byte) (proto.Message, error) {
				return inbox.Deposit(ctx, &mimimiv1.DepositRequest{Token: token, RequestId: id[:], User: a.user, SealedRequest: a.sealed})
			}}
		},
		New:  func() asked { return <-users },
		Done: func(a asked) int { return must(b.Count(d.t.Context(), b.Inbox(a.user))) },
	}
}

// TestKill9QueueToken and the next: a provider that is killed between a token's mark and the deed, and after each write of the deed.
func TestKill9QueueToken(t *testing.T) {
	t.Parallel()
	queueShop(newProcesses(t)).Kill9(t)
}

func TestKill9ConnectToken(t *testing.T) {
	t.Parallel()
	inboxShop(newProcesses(t)).Kill9(t)
}

// TestQueueTokenAtOnce and the next: 32 clients spend one token at once at two replicas.
func TestQueueTokenAtOnce(t *testing.T) {
	t.Parallel()
	queueShop(newProcesses(t)).AtOnce(t)
}

func TestConnectTokenAtOnce(t *testing.T) {
	t.Parallel()
	inboxShop(newProcesses(t)).AtOnce(t)
}
