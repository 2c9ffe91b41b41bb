package main

import (
	"context"
	"fmt"
	"io"
	"maps"
	"slices"
	"strings"

	"mimimi.example/pkg/bus"
	"mimimi.example/pkg/mimimi"
	providers "mimimi.example/services/provider"
)

// adminPeers is for other domains. Which ones there are at all is in the providers' configuration.
type adminPeers struct {
	List  adminPeersList  `cmd:"" help:"Print the domains that are refused."`
	Deny  adminPeersDeny  `cmd:"" help:"Refuse a domain: nothing is relayed to it or taken from it, and what is for it waits. It counts within seconds."`
	Allow adminPeersAllow `cmd:"" help:"Refuse a domain no longer."`
}

type adminPeersList struct{ adminFlags }

// Run prints the denied domains.
func (a *adminPeersList) Run(ctx context.Context, out io.Writer) error {
	return a.onBus(ctx, func(ctx context.Context, b *bus.Bus) error {
		s, err := providers.ReadSettings(ctx, b)
		if err != nil {
			return err
		}
		if a.JSON {
			return printJSON(out, map[string][]string{"denied": append([]string{}, s.DeniedPeers...)})
		}
		for _, d := range s.DeniedPeers {
			if _, err := fmt.Fprintln(out, d); err != nil {
				return err
			}
		}
		return nil
	})
}

type adminPeersDeny struct {
	adminFlags
	Domain string `arg:"" help:"The domain."`
}

// Run denies.
func (a *adminPeersDeny) Run(ctx context.Context, out io.Writer) error {
	return a.setDenied(ctx, out, "peers deny", a.Domain, true)
}

type adminPeersAllow struct {
	adminFlags
	Domain string `arg:"" help:"The domain."`
}

// Run allows.
func (a *adminPeersAllow) Run(ctx context.Context, out io.Writer) error {
	return a.setDenied(ctx, out, "peers allow", a.Domain, false)
}

// setDenied changes the list.
func (a *adminFlags) setDenied(ctx context.Context, out io.Writer, action, domain string, denied bool) error {
	if err := mimimi.CheckDomain(domain); err != nil {
		return err
	}
	return a.audited(ctx, action, domain, adminTime, func(ctx context.Context, b *bus.Bus) error {
		err := providers.ChangeSettings(ctx, b, func(s *providers.Settings) error {
			s.DeniedPeers = slices.DeleteFunc(s.DeniedPeers, func(d string) bool { return d == domain })
			if denied {
				s.DeniedPeers = append(s.DeniedPeers, domain)
				slices.Sort(s.DeniedPeers)
			}
			return nil
		})
		if err != nil {
			return err
		}
		word := "refused no longer"
		if denied {
			word = "refused"
		}
		return say(out, a.JSON, map[string]any{"domain": domain, "denied": denied}, "%s is %s", domain, word)
	})
}

// settings is what the audit log says of a change: "a=1 b=2".
func settings[N uint16 | int](set map[string]N) string {
	var all []string
	for _, k := range slices.Sorted(maps.Keys(set)) {
		all = append(all, fmt.Sprintf("%s=%d", k, set[k]))
	}
	return strings.Join(all, " ")
}

type adminQuotas struct {
	adminFlags
	Set map[string]uint16 `help:"OPERATION=NUMBER with claim, connection request, create group, queue or upload; may be repeated. 0 gives the choice back to the providers' configuration. It counts for weeks whose keys are not made yet, which is the week after next at the latest."`
}

// Run prints the quotas that are set, after changing some.
func (a *adminQuotas) Run(ctx context.Context, out io.Writer) error {
	if len(a.Set) == 0 {
		return a.onBus(ctx, func(ctx context.Context, b *bus.Bus) error { return a.print(ctx, b, out) })
	}
	return a.audited(ctx, "quotas", settings(a.Set), adminTime, func(ctx context.Context, b *bus.Bus) error {
		err := providers.ChangeSettings(ctx, b, func(s *providers.Settings) error {
			if s.TokenQuotas == nil {
				s.TokenQuotas = make(map[mimimi.TokenOperation]uint16)
			}
			for o, n := range a.Set {
				if s.TokenQuotas[mimimi.TokenOperation(o)] = n; n == 0 {
					delete(s.TokenQuotas, mimimi.TokenOperation(o))
				}
			}
			return nil
		})
		if err != nil {
			return err
		}
		return a.print(ctx, b, out)
	})
}

func (a *adminQuotas) print(ctx context.Context, b *bus.Bus, out io.Writer) error {
	s, err := providers.ReadSettings(ctx, b)
	if err != nil {
		return err
	}
	if a.JSON {
		return printJSON(out, map[string]any{"token_quotas": overNothing(s.TokenQuotas)})
	}
	for _, o := range slices.Sorted(maps.Keys(s.TokenQuotas)) {
		if _, err := fmt.Fprintf(out, "%s=%d\n", o, s.TokenQuotas[o]); err != nil {
			return err
		}
	}
	return nil
}

// overNothing is a map that JSON shows as one, empty or not.
func overNothing(m map[mimimi.TokenOperation]uint16) map[mimimi.TokenOperation]uint16 {
	if m == nil {
		return map[mimimi.TokenOperation]uint16{}
	}
	return m
}

type adminRetention struct {
	adminFlags
	Set map[string]int `help:"STREAM=DAYS with GROUP, OUTBOX, DEAD or AUDIT; may be repeated. What is older goes at once."`
}

// Run prints for how long streams keep what they hold, after changing some.
func (a *adminRetention) Run(ctx context.Context, out io.Writer) error {
	if len(a.Set) == 0 {
		return a.onBus(ctx, func(ctx context.Context, b *bus.Bus) error { return a.print(ctx, b, out) })
	}
	return a.audited(ctx, "retention", settings(a.Set), adminTime, func(ctx context.Context, b *bus.Bus) error {
		for _, k := range slices.Sorted(maps.Keys(a.Set)) {
			if err := b.SetRetention(ctx, k, a.Set[k]); err != nil {
				return err
			}
		}
		return a.print(ctx, b, out)
	})
}

func (a *adminRetention) print(ctx context.Context, b *bus.Bus, out io.Writer) error {
	all, err := b.Retentions(ctx)
	if err != nil {
		return err
	}
	for _, r := range all {
		if err := say(out, a.JSON, r, "%-7s %4d days, of %d to %d", r.Kind, r.Days, r.Least, r.Most); err != nil {
			return err
		}
	}
	return nil
}
