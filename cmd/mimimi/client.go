package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"strings"
	"time"

	"mimimi.example/pkg/client"
	"mimimi.example/pkg/mimimi"
)

// lockWait is how long a command waits for another one on the same folder.
const lockWait = 30 * time.Second

// lockPoll is how often it tries.
const lockPoll = 50 * time.Millisecond

// folderFlags are what every client command takes.
type folderFlags struct {
	Dir            string `required:"" type:"path" help:"Folder of the client's state."`
	PassphraseFile string `type:"existingfile" help:"File with the passphrase under which the state is encrypted, from register on."`
	JSON           bool   `help:"Print JSON."`
	// What would tie a user's groups together if it happened in all of them at once is spread over this time.
	Spread time.Duration `default:"24h" help:"Time over which what touches all of your groups is spread, so that it does not tie them together; 0s: at once."`
}

// maxPassphrase bounds the file: more is not a passphrase.
const maxPassphrase = 4096

// config is what the folder's client is opened with. The passphrase is the file's only line, without the line break that editors end it with.
func (f *folderFlags) config() (client.Config, error) {
	cfg := client.Config{Dir: f.Dir, Spread: f.Spread}
	if cfg.Spread == 0 {
		cfg.Spread = -1 // at once; to client.Config 0 means the default
	}
	if f.PassphraseFile == "" {
		return cfg, nil
	}
	b, err := os.ReadFile(f.PassphraseFile)
	if err != nil {
		return cfg, err
	}
	cfg.Passphrase = strings.TrimRight(string(b), "\r\n")
	if cfg.Passphrase == "" || len(b) > maxPassphrase || strings.ContainsAny(cfg.Passphrase, "\r\n") {
		return cfg, errors.New("the passphrase file must hold one line")
	}
	return cfg, nil
}

// open opens the folder's client, waiting for another command that uses it. It makes no folder.
func (f *folderFlags) open(ctx context.Context) (*client.Client, error) {
	if _, err := os.Stat(f.Dir); errors.Is(err, fs.ErrNotExist) {
		return nil, client.ErrNotRegistered
	}
	cfg, err := f.config()
	if err != nil {
		return nil, err
	}
	ctx, cancel := context.WithTimeout(ctx, lockWait)
	defer cancel()
	for {
		c, err := client.Open(ctx, cfg)
		if !errors.Is(err, client.ErrLocked) {
			return c, err
		}
		select {
		case <-ctx.Done():
			return nil, err
		case <-time.After(lockPoll):
		}
	}
}

// with opens the client, catches up, runs do and closes it.
func (f *folderFlags) with(ctx context.Context, do func(*client.Client) error) error {
	c, err := f.open(ctx)
	if err != nil {
		return err
	}
	err = c.Sync(ctx)
	if err == nil {
		err = do(c)
	}
	return errors.Join(err, c.Close())
}

// local opens the client and runs do without the network.
func (f *folderFlags) local(ctx context.Context, do func(*client.Client) error) error {
	c, err := f.open(ctx)
	if err != nil {
		return err
	}
	return errors.Join(do(c), c.Close())
}

type registerCommand struct {
	folderFlags
	Provider string `required:"" type:"existingfile" help:"The provider's client.json."`
	Name     string `arg:"" help:"User name: the last part of mimi://DOMAIN/u/NAME."`
}

// Run registers the user.
func (r *registerCommand) Run(ctx context.Context, out io.Writer) error {
	info, err := provider(r.Provider)
	if err != nil {
		return err
	}
	cfg, err := r.config()
	if err != nil {
		return err
	}
	cfg.Provider = info
	c, err := client.Register(ctx, cfg, r.Name)
	if err != nil {
		return err
	}
	user := c.User().Wire()
	fingerprint, err := c.Fingerprint(ctx)
	if err = errors.Join(err, c.Close()); err != nil {
		return err
	}
	return say(out, r.JSON, map[string]string{"user": user, "fingerprint": fingerprint},
		"you are %s\nfingerprint %s", user, fingerprint)
}

// provider reads a provider's file.
func provider(path string) (client.ProviderInfo, error) {
	info, err := client.LoadProviderInfo(path)
	if err != nil {
		return info, fmt.Errorf("-provider must be the client.json that `mimimi up` names: %w", err)
	}
	return info, nil
}

type connectCommand struct {
	folderFlags
	User string `arg:"" help:"The user, mimi://DOMAIN/u/NAME."`
}

// Run asks for a connection.
func (c *connectCommand) Run(ctx context.Context, out io.Writer) error {
	user, err := mimimi.ParseUser(c.User)
	if err != nil {
		return err
	}
	return c.with(ctx, func(cl *client.Client) error {
		if err := cl.Connect(ctx, user); err != nil {
			return err
		}
		contacts, err := cl.Contacts(ctx)
		if err != nil {
			return err
		}
		for _, k := range contacts {
			if k.User == user && k.State == client.ContactConnected {
				return say(out, c.JSON, map[string]string{"user": c.User, "state": string(k.State)}, "you are connected with %s already", c.User)
			}
		}
		return say(out, c.JSON, map[string]string{"user": c.User, "state": string(client.ContactRequested)},
			"asked %s; `mimimi listen` completes the connection once it is accepted", c.User)
	})
}

type requestsCommand struct{ folderFlags }

// Run lists the requests.
func (r *requestsCommand) Run(ctx context.Context, out io.Writer) error {
	return r.with(ctx, func(c *client.Client) error {
		list, err := c.Requests(ctx)
		if err != nil {
			return err
		}
		type row struct {
			ID          string `json:"id"`
			From        string `json:"from"`
			NotAfter    string `json:"not_after"`
			Fingerprint string `json:"fingerprint"`
		}
		rows := make([]row, len(list))
		for i, q := range list {
			rows[i] = row{q.ID, q.From.Wire(), q.NotAfter.UTC().Format(time.RFC3339), q.Fingerprint}
		}
		if r.JSON {
			return printJSON(out, rows)
		}
		for _, q := range rows {
			if _, err := fmt.Fprintf(out, "%s  %s  until %s  %s\n", q.ID, q.From, q.NotAfter, q.Fingerprint); err != nil {
				return err
			}
		}
		return nil
	})
}

// requestID finds a request by its id or by the user it is from.
func requestID(ctx context.Context, c *client.Client, arg string) (string, error) {
	list, err := c.Requests(ctx)
	if err != nil {
		return "", err
	}
	for _, q := range list {
		if q.ID == arg || q.From.Wire() == arg {
			return q.ID, nil
		}
	}
	return "", client.ErrUnknownRequest
}

type acceptCommand struct {
	folderFlags
	Request string `arg:"" help:"The request's id, or the user it is from."`
}

// Run accepts a request.
func (a *acceptCommand) Run(ctx context.Context, out io.Writer) error {
	return a.with(ctx, func(c *client.Client) error {
		id, err := requestID(ctx, c, a.Request)
		if err != nil {
			return err
		}
		if err := c.Accept(ctx, id); err != nil {
			return err
		}
		return say(out, a.JSON, map[string]string{"request": id, "state": string(client.ContactAccepting)},
			"accepted; `mimimi listen` completes the connection when the other side is online")
	})
}

type rejectCommand struct {
	folderFlags
	Request string `arg:"" help:"The request's id, or the user it is from."`
}

// Run drops a request.
func (r *rejectCommand) Run(ctx context.Context, out io.Writer) error {
	return r.local(ctx, func(c *client.Client) error {
		id, err := requestID(ctx, c, r.Request)
		if err != nil {
			return err
		}
		if err := c.Reject(ctx, id); err != nil {
			return err
		}
		return say(out, r.JSON, map[string]string{"request": id, "state": "rejected"}, "dropped")
	})
}

type contactsCommand struct{ folderFlags }

// Run lists the contacts.
func (k *contactsCommand) Run(ctx context.Context, out io.Writer) error {
	return k.with(ctx, func(c *client.Client) error {
		list, err := c.Contacts(ctx)
		if err != nil {
			return err
		}
		type row struct {
			User  string `json:"user"`
			State string `json:"state"`
		}
		rows := make([]row, len(list))
		for i, x := range list {
			rows[i] = row{x.User.Wire(), string(x.State)}
		}
		if k.JSON {
			return printJSON(out, rows)
		}
		for _, x := range rows {
			if _, err := fmt.Fprintf(out, "%-10s %s\n", x.State, x.User); err != nil {
				return err
			}
		}
		return nil
	})
}

type domainsCommand struct{ folderFlags }

// Run lists the domains that this client has met, and what is known of their keys.
func (d *domainsCommand) Run(ctx context.Context, out io.Writer) error {
	return d.with(ctx, func(c *client.Client) error {
		list, err := c.DomainKeys(ctx)
		if err != nil {
			return err
		}
		type row struct {
			Domain string     `json:"domain"`
			State  string     `json:"state"`
			Since  *time.Time `json:"since,omitempty"`
		}
		rows := make([]row, len(list))
		for i, x := range list {
			if rows[i] = (row{Domain: x.Domain, State: string(x.State)}); !x.Since.IsZero() {
				rows[i].Since = &list[i].Since
			}
		}
		if d.JSON {
			return printJSON(out, rows)
		}
		for _, x := range rows {
			since := ""
			if x.Since != nil {
				since = " since " + x.Since.Format(time.RFC3339)
			}
			if _, err := fmt.Fprintf(out, "%-10s %s%s\n", x.State, x.Domain, since); err != nil {
				return err
			}
		}
		return nil
	})
}

type verifyCommand struct {
	folderFlags
	User string `arg:"" help:"The contact."`
}

// Run shows fingerprints.
func (v *verifyCommand) Run(ctx context.Context, out io.Writer) error {
	user, err := mimimi.ParseUser(v.User)
	if err != nil {
		return err
	}
	return v.local(ctx, func(c *client.Client) error {
		f, err := c.Verify(ctx, user)
		if err != nil {
			return err
		}
		return say(out, v.JSON, map[string]any{"own": f.Own, "theirs": f.Theirs},
			"yours   %s\ntheirs  %s\nCompare both over another channel: they must be the same on both sides.", f.Own, strings.Join(f.Theirs, "\n        "))
	})
}

// listenCommand prints events until it is told to stop.
type listenCommand struct {
	folderFlags
	After *uint64       `help:"Print events after this number; default: after the last one that listen printed in this folder."`
	For   time.Duration `help:"Stop after this time; default: never."`
	Once  bool          `help:"Print what waits now, then stop."`
}

// Run prints events as they come. It holds the folder only while there is something to do, so that other commands can run beside it. The number of the last event
// printed is kept in the folder, written after the event was printed: a kill in the instant between prints that one again, with the same number.
func (l *listenCommand) Run(ctx context.Context, out io.Writer) error {
	if l.For > 0 {
		var cancel context.CancelFunc
		ctx, cancel = context.WithTimeout(ctx, l.For)
		defer cancel()
	}
	p := &printed{dir: l.Dir}
	if err := p.load(l.After); err != nil {
		return err
	}
	var w *client.Watcher
	defer func() {
		if w != nil {
			w.Close()
		}
	}()
	for {
		err := l.round(ctx, out, p, &w)
		if ctx.Err() != nil || (l.Once && err == nil) {
			return nil // told to stop: what was not stored comes again
		}
		if err != nil {
			if w == nil || l.Once || errors.Is(err, client.ErrDeviceRemoved) {
				return err
			}
			if err := l.complain(out, err); err != nil {
				return err
			}
		}
		if err := w.Wait(ctx); err != nil {
			return nil
		}
	}
}

// round catches up once and prints what is new.
func (l *listenCommand) round(ctx context.Context, out io.Writer, p *printed, w **client.Watcher) error {
	c, err := l.open(ctx)
	if err != nil {
		return err
	}
	if *w == nil {
		*w, err = c.Watcher(ctx)
	}
	if err == nil {
		// A Sync that fails in part has still stored the rest: print it before the error.
		err = errors.Join(c.Sync(ctx), l.print(context.WithoutCancel(ctx), out, c, p), (*w).Reset(ctx, c))
	}
	return errors.Join(err, c.Close())
}

func (l *listenCommand) print(ctx context.Context, out io.Writer, c *client.Client, p *printed) error {
	names := make(map[string]string)
	groups, err := c.Groups(ctx)
	if err != nil {
		return err
	}
	for _, g := range groups {
		names[g.ID] = g.Name
	}
	for {
		events, err := c.Events(ctx, p.last, 0)
		if err != nil || len(events) == 0 {
			return err
		}
		for _, e := range events {
			if err := printEvent(out, l.JSON, e, names); err != nil {
				return err
			}
			if err := p.store(e.Seq); err != nil {
				return err
			}
		}
	}
}

// complain prints a passing error; listen goes on.
func (l *listenCommand) complain(out io.Writer, err error) error {
	return say(out, l.JSON, map[string]string{"kind": "error", "text": explain(err)}, "          %s; trying again", explain(err))
}
