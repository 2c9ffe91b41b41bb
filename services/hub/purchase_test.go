package hub

import (
	"context"
	"net/http"
	"os"
	"path/filepath"
	"testing"
	"time"

	"google.golang.org/protobuf/proto"

	pb "mimimi.example/api/mimimi/v1"
	"mimimi.example/api/mimimi/v1/mimimiv1connect"
	"mimimi.example/pkg/bus/bustest"
	"mimimi.example/pkg/mimimi"
	"mimimi.example/pkg/oblivious"
	"mimimi.example/pkg/redeem/redeemtest"
	"mimimi.example/pkg/service"
	"mimimi.example/pkg/service/servicetest"
)

func TestMain(m *testing.M) {
	servicetest.Main(m, "hub", func(path string) (service.Run, error) {
		cfg, err := Load(path)
		return func(ctx context.Context, e *service.Env) error { return Run(ctx, cfg, e) }, err
	})
}

// process is a hub that is a process.
type process struct {
	*servicetest.Process
	client mimimiv1connect.HubServiceClient
}

// Buy implements redeemtest.Replica: it creates a group.
func (p *process) Buy(ctx context.Context, creation *pb.CreateGroupRequest, id [16]byte, token []byte) ([]byte, error) {
	rq := proto.CloneOf(creation)
	rq.RequestId, rq.Token = id[:], token
	answer, err := p.client.CreateGroup(ctx, rq)
	if err != nil {
		return nil, err
	}
	return proto.MarshalOptions{Deterministic: true}.Marshal(answer)
}

// groups is a hub that sells groups.
func groups(t *testing.T) *redeemtest.Shop[*pb.CreateGroupRequest] {
	t.Helper()
	d := bustest.StartReachable(t)
	here, edge := d.Bus("hub"), d.Bus("provider")
	redeemtest.Provide(t, edge, hubDomain, time.Now)
	dir := t.TempDir()
	file := func(name string, content []byte) string {
		path := filepath.Join(dir, name)
		ok(t, os.WriteFile(path, content, 0o600))
		return path
	}
	secret, public, err := oblivious.GenerateKey(1)
	ok(t, err)
	keys := []string{file("ohttp.key", secret)}
	return &redeemtest.Shop[*pb.CreateGroupRequest]{
		Domain: d, Name: hubDomain, Operation: mimimi.TokenGroup,
		Open: func(g *bustest.Gate) redeemtest.Replica[*pb.CreateGroupRequest] {
			started := servicetest.Start(t, map[string]any{
				"domain": hubDomain, "ohttp_key_files": keys, "bus": d.Section("hub", g.URL()),
			})
			redeemtest.Answering(t, edge, "hub", g)
			transport := must(oblivious.NewTransport(public, func(ctx context.Context, b []byte) ([]byte, error) { return edge.Call(ctx, "hub", b) }))
			return &process{started, mimimiv1connect.NewHubServiceClient(&http.Client{Transport: transport}, "https://hub.invalid")}
		},
		New: func() *pb.CreateGroupRequest {
			w := emptyWorld(t, here)
			w.clock.ms.Store(time.Now().UnixMilli())
			rq, _ := w.creation()
			return rq
		},
		Done: func(rq *pb.CreateGroupRequest) int {
			id := must(newGroupID(rq.GroupInfo, hubDomain))
			return must(here.Count(t.Context(), here.GroupHandshakes([]byte(id.Wire()))))
		},
	}
}

// TestKill9GroupToken: a hub that is killed between a token's mark and the group.
func TestKill9GroupToken(t *testing.T) {
	t.Parallel()
	groups(t).Kill9(t)
}

// TestGroupTokenAtOnce: 32 clients spend one token at once at two replicas.
func TestGroupTokenAtOnce(t *testing.T) {
	t.Parallel()
	groups(t).AtOnce(t)
}
