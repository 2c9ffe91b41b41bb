package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"os"
	"path/filepath"
	"strings"
	"time"

	"mimimi.example/cmd/mimimi/domain"
	"mimimi.example/pkg/mimimi"
)

// stopTime bounds how long a domain may take to drain.
const stopTime = 20 * time.Second

// upCommand runs domains until it is told to stop.
type upCommand struct {
	Domain   []string `required:"" help:"Domain to run, such as a.localhost; may be repeated."`
	Dir      string   `required:"" type:"path" help:"Folder of the domain's state; with several domains, one folder of each domain's name is made in it."`
	Peer     []string `type:"path" help:"Another domain's peer.json; may be repeated, and may appear later. Domains of one process know each other."`
	Nats     string   `help:"URL of a NATS server to use instead of the embedded one (one domain only)."`
	NatsKeys string   `type:"path" help:"Folder of the keys of that server's users, as admin users writes it with --partitions 4."`
	Replicas int      `default:"1" help:"How many replicas of each service to run."`
	// Quota is provider.Config.TokenQuotas.
	Quota   map[string]uint16 `help:"Anonymous tokens that each client gets in a week, where the default does not do: OPERATION=NUMBER with claim, connection request, create group, queue or upload; may be repeated. For weeks whose keys are not made yet."`
	Otlp    string            `placeholder:"ADDR" help:"Send traces, metrics and logs to an OTLP/HTTP receiver, such as 127.0.0.1:4318 or a URL."`
	JSON    bool              `help:"Print one JSON object a line."`
	Verbose bool              `help:"Write the services' log to standard error."`
}

// Validate is called by the parser.
func (u *upCommand) Validate() error {
	if u.NatsKeys != "" && u.Nats == "" {
		return errors.New("--nats-keys goes with --nats")
	}
	if u.Nats != "" && len(u.Domain) > 1 {
		return errors.New("--nats serves one domain: run one process for each")
	}
	if u.Replicas < 1 || u.Replicas > 8 {
		return errors.New("--replicas must be between 1 and 8")
	}
	return nil
}

// Run starts the domains, prints where they are, and stops them when ctx ends.
func (u *upCommand) Run(ctx context.Context, out io.Writer) (err error) {
	log := slog.New(slog.DiscardHandler)
	if u.Verbose {
		log = slog.New(slog.NewTextHandler(os.Stderr, nil))
	}
	var running []*domain.Domain
	defer func() {
		stop, cancel := context.WithTimeout(context.WithoutCancel(ctx), stopTime)
		defer cancel()
		for _, d := range running {
			err = errors.Join(err, d.Stop(stop))
		}
	}()
	for _, name := range u.Domain {
		d, err := domain.Start(ctx, domain.Options{
			Dir: u.folder(name), Domain: name, Peers: u.peers(name), NATSURL: u.Nats, NATSKeys: u.NatsKeys, Replicas: u.Replicas, TokenQuotas: u.quotas(), OTLP: receiver(u.Otlp),
			Log: func(string) *slog.Logger { return log },
		})
		if err != nil {
			return fmt.Errorf("start %s: %v", name, err) // not as a client's error, which is about a provider
		}
		running = append(running, d)
		if err := u.announce(out, d); err != nil {
			return err
		}
	}
	stopped := make(chan struct{}, len(running))
	for _, d := range running {
		go func() {
			<-d.Done()
			stopped <- struct{}{}
		}()
	}
	select {
	case <-ctx.Done():
		return nil
	case <-stopped:
		return errors.New("a domain stopped by itself: --verbose shows its log")
	}
}

// receiver is the URL of an OTLP receiver that may be given by its address alone.
func receiver(addr string) string {
	if addr == "" || strings.Contains(addr, "://") {
		return addr
	}
	return "http://" + addr
}

func (u *upCommand) quotas() map[mimimi.TokenOperation]uint16 {
	quotas := make(map[mimimi.TokenOperation]uint16, len(u.Quota))
	for operation, n := range u.Quota {
		quotas[mimimi.TokenOperation(operation)] = n
	}
	return quotas
}

func (u *upCommand) folder(name string) string {
	if len(u.Domain) == 1 {
		return u.Dir
	}
	return filepath.Join(u.Dir, name)
}

// peers returns the peer files of a domain: those named, and those of the process's other domains.
func (u *upCommand) peers(name string) []string {
	peers := append([]string(nil), u.Peer...)
	for _, other := range u.Domain {
		if other != name {
			peers = append(peers, filepath.Join(u.folder(other), "peer.json"))
		}
	}
	return peers
}

// announce prints where a domain is and which files others need.
func (u *upCommand) announce(out io.Writer, d *domain.Domain) error {
	info := d.Info()
	if u.JSON {
		return printJSON(out, map[string]string{
			"domain": info.Domain, "account_url": info.AccountURL, "anonymous_url": info.AnonymousURL,
			"federation_url": d.FederationURL(), "client_file": d.ClientFile(), "peer_file": d.PeerFile(),
		})
	}
	_, err := fmt.Fprintf(out, "%s is up\n  account     %s\n  anonymous   %s\n  federation  %s\n  for clients %s\n  for peers   %s\n",
		info.Domain, info.AccountURL, info.AnonymousURL, d.FederationURL(), d.ClientFile(), d.PeerFile())
	return err
}
