package provider

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"time"

	"mimimi.example/pkg/bus"
	"mimimi.example/pkg/mimimi"
	"mimimi.example/pkg/problem"
)

// Settings are what an operator changes while providers run, beside their configuration: `mimimi admin` writes them, each replica reads them every few seconds.
type Settings struct {
	// TokenQuotas go before those of the configuration, for weeks whose keys are not made yet.
	TokenQuotas map[mimimi.TokenOperation]uint16 `json:"token_quotas,omitempty"`
	// DeniedPeers are domains that are refused, whatever the configuration says of them: nothing is relayed to them, nothing is taken from them, and what is for
	// them waits.
	DeniedPeers []string `json:"denied_peers,omitempty"`
}

// settingsName is the record's.
const settingsName = "provider"

// maxDenied bounds the list of denied domains: the stream's records have 1 MiB.
const maxDenied = 4096

var errSettings = problem.New(problem.Internal, "the provider's settings cannot be read: set them anew")

// ReadSettings returns the settings, empty if none were ever made. Errors: problem.Unavailable; problem.Internal if they cannot be read.
func ReadSettings(ctx context.Context, b *bus.Bus) (*Settings, error) {
	s, _, err := readSettings(ctx, b)
	return s, err
}

func readSettings(ctx context.Context, b *bus.Bus) (*Settings, uint64, error) {
	s := new(Settings)
	m, err := b.Last(ctx, b.Setting(settingsName))
	if isKind(err, problem.NotFound) {
		return s, 0, nil
	}
	if err != nil {
		return nil, 0, err
	}
	if json.Unmarshal(m.Data, s) != nil || s.validate() != nil {
		return nil, 0, errSettings
	}
	return s, m.Sequence, nil
}

func (s *Settings) validate() error {
	if _, err := (&Config{TokenQuotas: s.TokenQuotas}).quotas(); err != nil {
		return err
	}
	if len(s.DeniedPeers) > maxDenied {
		return fmt.Errorf("at most %d domains can be denied: remove them from the configuration instead", maxDenied)
	}
	for _, d := range s.DeniedPeers {
		if err := mimimi.CheckDomain(d); err != nil {
			return err
		}
	}
	return nil
}

// ChangeSettings changes the settings. It is for the admin user. change may be called again, when somebody else changed them meanwhile. Errors: change's, those of settings that cannot be,
// problem.Unavailable when it is not known whether they were changed.
func ChangeSettings(ctx context.Context, b *bus.Bus, change func(*Settings) error) error {
	for range updateTries {
		s, last, err := readSettings(ctx, b)
		if err != nil {
			return err
		}
		if err := errors.Join(change(s), s.validate()); err != nil {
			return err
		}
		raw, err := json.Marshal(s)
		if err != nil {
			return err
		}
		if _, err = b.Publish(ctx, b.Setting(settingsName), raw, bus.PublishOptions{ExpectLast: &last}); !isKind(err, problem.Stale) {
			return err
		}
	}
	return problem.New(problem.Unavailable, "others change the settings: try again")
}

// applySettings takes over what the settings say of peers.
func (p *provider) applySettings(ctx context.Context) error {
	s, err := ReadSettings(ctx, p.env.Bus)
	if err != nil {
		return err
	}
	p.peers.deny(s.DeniedPeers)
	return nil
}

// followSettings applies the settings again and again until ctx is done. When they cannot be read, the last ones hold.
func (p *provider) followSettings(ctx context.Context) {
	tick := time.NewTicker(peersInterval)
	defer tick.Stop()
	said := false
	for {
		select {
		case <-ctx.Done():
			return
		case <-tick.C:
		}
		err := p.applySettings(ctx)
		if isKind(err, problem.Internal) && !said {
			p.env.Log.WarnContext(ctx, "the settings cannot be read: the last ones hold")
		}
		said = err != nil
	}
}

// deny refuses these domains from now on, and no others.
func (p *peers) deny(domains []string) {
	p.mu.Lock()
	defer p.mu.Unlock()
	for _, d := range domains {
		if q := p.byDomain[d]; q != nil && !slices.Contains(p.denied, d) {
			q.http.CloseIdleConnections()
		}
	}
	p.denied = slices.Clone(domains)
}

// isDenied says whether a domain is refused.
func (p *peers) isDenied(domain string) bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	return slices.Contains(p.denied, domain)
}
