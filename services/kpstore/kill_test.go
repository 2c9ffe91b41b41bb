package kpstore

import (
	"context"
	"fmt"
	"maps"
	"net/http"
	"os"
	"path/filepath"
	"sync"
	"testing"
	"time"

	"connectrpc.com/connect"
	"google.golang.org/protobuf/proto"

	v1 "mimimi.example/api/mimimi/v1"
	"mimimi.example/api/mimimi/v1/mimimiv1connect"
	"mimimi.example/pkg/bus/bustest"
	"mimimi.example/pkg/oblivious"
	"mimimi.example/pkg/redeem/redeemtest"
	"mimimi.example/pkg/service"
	"mimimi.example/pkg/service/servicetest"
)

func TestMain(m *testing.M) {
	servicetest.Main(m, "kpstore", func(path string) (service.Run, error) {
		cfg, err := Load(path)
		return func(ctx context.Context, e *service.Env) error { return Run(ctx, cfg, e) }, err
	})
}

// processes are replicas of the store that are processes of their own.
type processes struct {
	*world
	config map[string]any // their configuration, but for the bus
	public []byte         // OHTTP key configuration
}

func newProcesses(t *testing.T) *processes {
	t.Helper()
	p := &processes{world: &world{T: t, domain: bustest.StartReachable(t), now: time.Now()}}
	dir := t.TempDir()
	file := func(name string, content []byte) string {
		path := filepath.Join(dir, name)
		if err := os.WriteFile(path, content, 0o600); err != nil {
			t.Fatal(err)
		}
		return path
	}
	secret, public := must2(oblivious.GenerateKey(3))
	p.public = public
	p.config = map[string]any{"domain": domain, "ohttp_key_files": []string{file("ohttp.key", secret)}, "claims_per_hour_and_issuer": 1000}
	redeemtest.Provide(t, p.domain.Bus("provider"), domain, time.Now)
	return p
}

// start starts a replica that reaches the bus at url.
func (p *processes) start(url string) *servicetest.Process {
	p.Helper()
	config := maps.Clone(p.config)
	config["bus"] = p.domain.Section("kpstore", url)
	return servicetest.Start(p.T, config)
}

// client makes calls that wait two seconds for an answer: the one of a replica that was killed never comes.
func (p *processes) client() mimimiv1connect.KeyPackageServiceClient {
	edge := p.domain.Bus("provider")
	transport := must(oblivious.NewTransport(p.public, func(ctx context.Context, b []byte) ([]byte, error) {
		ctx, cancel := context.WithTimeout(ctx, 2*time.Second)
		defer cancel()
		return edge.Call(ctx, "kpstore", b)
	}))
	return mimimiv1connect.NewKeyPackageServiceClient(&http.Client{Transport: transport}, "https://kpstore.invalid")
}

// TestKill9Claims: 64 claims on 50 sets through two replicas that are processes; one is killed while they run, and then, when a third has come, the other. What
// is not answered is asked again with the same request id. 50 get one set each, all different; 14 are told that nothing is left, or get last-resort sets where
// they may; asked again, everybody gets the same answer.
func TestKill9Claims(t *testing.T) {
	t.Parallel()
	for _, lastResort := range []int{0, 3} {
		t.Run(fmt.Sprintf("last resort %d", lastResort), func(t *testing.T) { kill9Claims(t, lastResort) })
	}
}

func kill9Claims(t *testing.T, lastResort int) {
	p := newProcesses(t)
	url := p.domain.Options("kpstore").URL
	replicas := []*servicetest.Process{p.start(url), p.start(url)}
	u, here := p.user(domain), p.replica()
	u.mustUpload(here, 1, u.items(50, lastResort)...)
	tokens := make([][]byte, 16)
	for i := range tokens {
		tokens[i] = u.token(here)
	}
	ctx, cancel := context.WithTimeout(t.Context(), 2*time.Minute)
	defer cancel()
	client := p.client()
	claim := func(r *v1.ClaimRequest) (got *v1.ClaimResponse, tries int) {
		for ctx.Err() == nil {
			got, err := client.Claim(ctx, p.paidClaim(clone(r)))
			tries++
			if err == nil || connect.CodeOf(err) == connect.CodeResourceExhausted {
				return got, tries
			}
		}
		t.Error("a claim is not answered")
		return nil, tries
	}
	claim(&v1.ClaimRequest{RequestId: requestID(), ConnectionToken: requestID32()}) // until a replica is up

	requests, answers := make([]*v1.ClaimRequest, 64), make([]*v1.ClaimResponse, 64)
	var mu sync.Mutex
	answered, again := 0, 0 // guarded by mu
	var wg sync.WaitGroup
	for i := range requests {
		requests[i] = claimOf(tokens[i%len(tokens)], lastResort > 0)
		wg.Go(func() {
			got, tries := claim(requests[i])
			answers[i] = got
			mu.Lock()
			defer mu.Unlock()
			again += tries - 1
			switch answered++; answered {
			case 8:
				replicas[0].Kill()
				p.start(url)
			case 32:
				replicas[1].Kill()
			}
		})
	}
	wg.Wait()
	served, last, refused := map[string]bool{}, 0, 0
	for i, r := range requests {
		got, _ := claim(r)
		if !proto.Equal(got, answers[i]) {
			t.Error("a repeat got another answer")
		}
		if answers[i] == nil {
			refused++
			continue
		}
		if answers[i].GetLastResort() {
			last++
			continue
		}
		name := pseudonym(t, answers[i])
		if served[name] {
			t.Error("a set was handed out twice")
		}
		served[name] = true
	}
	wantLast, wantRefused := 0, 14
	if lastResort > 0 {
		wantLast, wantRefused = 14, 0
	}
	if len(served) != 50 || last != wantLast || refused != wantRefused {
		t.Errorf("one-time %d, last resort %d, refused %d; want 50, %d, %d", len(served), last, refused, wantLast, wantRefused)
	}
	if n := len(u.list(here)); n != lastResort {
		t.Errorf("%d sets are left, want the %d last-resort ones", n, lastResort)
	}
	t.Logf("%d requests were repeated", again)
}
