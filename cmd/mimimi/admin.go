package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"time"

	"mimimi.example/pkg/bus"
	"mimimi.example/pkg/mimimi"
	"mimimi.example/pkg/service"
)

// adminTime bounds what an admin command waits for the bus: streams of a fresh cluster take a while.
const adminTime = 11 * time.Minute

// adminCommand is for whoever runs a deployment of separate programs.
type adminCommand struct {
	Keys  adminKeys  `cmd:"" help:"Make what a deployment has once: its keys, certificates of its own if there are none, and the files that clients and other domains are given."`
	Users adminUsers `cmd:"" help:"Make the deployment's NATS users: a key for each service, and the part of the servers' configuration that takes them and nobody else."`
	Init  adminInit  `cmd:"" help:"Make the streams, or raise their limits to this version's. Repeating it changes nothing."`
	Check adminCheck `cmd:"" help:"Say whether the streams are as this version declares them."`

	BackupKey    adminBackupKey    `cmd:"" help:"Make the pair of keys for backups."`
	Backup       adminBackup       `cmd:"" help:"Write all streams to a file, encrypted, while the services go on."`
	Restore      adminRestore      `cmd:"" help:"Write a backup's streams to empty servers. Start the services afterwards."`
	Dead         adminDead         `cmd:"" help:"What the services could not process."`
	Peers        adminPeers        `cmd:"" help:"Other domains that are refused."`
	Quotas       adminQuotas       `cmd:"" help:"Print, or change, how many anonymous tokens each client gets in a week."`
	Retention    adminRetention    `cmd:"" help:"Print, or change, how long streams keep what they hold."`
	RotateIssuer adminRotateIssuer `cmd:"" help:"Have the keys for anonymous tokens made anew that are not announced yet: from the week after next on. All keys change every week by themselves."`
	QueueSecret  adminQueueSecret  `cmd:"" help:"Make a new secret for queue keys, and say how it takes the old one's place when the next four weeks begin."`

	Audit adminAudit `cmd:"" help:"Print what was done by admin commands, by whom and when."`
}

type adminUsers struct {
	Domain        string `required:"" help:"The deployment's domain."`
	DeploymentKey string `required:"" type:"path" help:"File of the deployment key: 32 bytes, the same as in the services' configuration."`
	Partitions    int    `default:"8" help:"Number of GROUP, QUEUE and KP streams, as in the services' configuration."`
	Dir           string `required:"" type:"path" help:"Folder to write to: nats-users.conf for the servers to include, and a file of each service's name with its key, for nkey_file."`
	JSON          bool   `help:"Print one JSON object."`
}

// Run writes the files. It overwrites none: a key that was replaced unseen would lock a service out.
func (a *adminUsers) Run(out io.Writer) error {
	if err := mimimi.CheckDomain(a.Domain); err != nil {
		return err
	}
	key, err := os.ReadFile(a.DeploymentKey)
	if err != nil {
		return fmt.Errorf("read the deployment key: %w", err)
	}
	users, err := bus.NewUsers(bus.Layout{Partitions: a.Partitions, DeploymentKey: key}, a.Domain)
	if err != nil {
		return err
	}
	text, err := users.Config()
	if err != nil {
		return err
	}
	files := map[string][]byte{"nats-users.conf": []byte(text)}
	for _, s := range bus.Services() {
		if files[s+".nk"], err = users.Seed(s); err != nil {
			return err
		}
	}
	if err := os.MkdirAll(a.Dir, 0o700); err != nil {
		return err
	}
	for name := range files {
		if _, err := os.Lstat(filepath.Join(a.Dir, name)); !errors.Is(err, fs.ErrNotExist) {
			return errors.Join(err, fmt.Errorf("%s is there already: move it away, or choose another folder", name))
		}
	}
	for name, content := range files {
		if err := os.WriteFile(filepath.Join(a.Dir, name), content, 0o600); err != nil {
			return err
		}
	}
	return say(out, a.JSON, map[string]string{"folder": a.Dir}, "wrote nats-users.conf and a key for each service to %s", a.Dir)
}

// adminFlags are common to what is done on a running bus.
type adminFlags struct {
	Config string `required:"" type:"path" help:"Configuration file with a section bus, like the services'; nkey_file is the admin user's."`
	As     string `help:"Who does this: a label of your own for the audit log."`
	JSON   bool   `help:"Print JSON, one object a line."`
}

// onBus connects and does something.
func (a *adminFlags) onBus(ctx context.Context, do func(ctx context.Context, b *bus.Bus) error) error {
	return a.onBusFor(ctx, adminTime, do)
}

func (a *adminFlags) onBusFor(ctx context.Context, most time.Duration, do func(ctx context.Context, b *bus.Bus) error) error {
	options, err := busOptions(a.Config, "admin")
	if err != nil {
		return err
	}
	ctx, cancel := context.WithTimeout(ctx, most)
	defer cancel()
	return connected(ctx, options, do)
}

// audited does something that the audit log knows of before it begins, and what came of it afterwards. setting is what is changed, "" if nothing is.
func (a *adminFlags) audited(ctx context.Context, action, setting string, most time.Duration, do func(ctx context.Context, b *bus.Bus) error) error {
	return a.onBusFor(ctx, most, func(ctx context.Context, b *bus.Bus) error {
		if err := b.Audit(ctx, bus.Audited{As: a.As, Action: action, Setting: setting, Outcome: "begun"}); err != nil {
			return fmt.Errorf("write the audit log: %w", err)
		}
		return a.record(ctx, b, action, setting, do(ctx, b))
	})
}

// record writes what came of an action, and returns its error.
func (a *adminFlags) record(ctx context.Context, b *bus.Bus, action, setting string, err error) error {
	outcome := "done"
	if err != nil {
		outcome = "failed"
	}
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), adminTime)
	defer cancel()
	return errors.Join(err, b.Audit(ctx, bus.Audited{As: a.As, Action: action, Setting: setting, Outcome: outcome}))
}

type adminAudit struct{ adminFlags }

// Run prints the audit log, oldest first.
func (a *adminAudit) Run(ctx context.Context, out io.Writer) error {
	return a.onBus(ctx, func(ctx context.Context, b *bus.Bus) error {
		return b.Each(ctx, b.AuditLog(), 0, func(m *bus.Message) error {
			e, err := bus.ParseAudited(m.Data)
			if err != nil {
				return err
			}
			return say(out, a.JSON, e, "%s  %-7s %-14s %s  %s", e.At.Format(time.RFC3339), e.Outcome, e.Action, e.Setting, e.As)
		})
	})
}

// busOptions reads a configuration file with a section bus, for one of the bus's users.
func busOptions(file, user string) (bus.Options, error) {
	var config struct {
		Bus service.BusConfig `json:"bus"`
	}
	if err := service.LoadJSON(file, &config); err != nil {
		return bus.Options{}, err
	}
	if err := config.Bus.Validate(); err != nil {
		return bus.Options{}, err
	}
	return config.Bus.Options(user)
}

// connected connects and does something.
func connected(ctx context.Context, options bus.Options, do func(ctx context.Context, b *bus.Bus) error) (err error) {
	b, err := bus.Connect(ctx, options)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, b.Close(context.WithoutCancel(ctx))) }()
	return do(ctx, b)
}

type adminInit struct{ adminFlags }

// Run makes the streams.
func (a *adminInit) Run(ctx context.Context, out io.Writer) error {
	return a.onBus(ctx, func(ctx context.Context, b *bus.Bus) error {
		if err := b.Init(ctx); err != nil {
			return err
		}
		if err := a.record(ctx, b, "init", "", nil); err != nil { // only now there is a log for certain
			return err
		}
		return say(out, a.JSON, map[string]bool{"initialised": true}, "the streams are as declared")
	})
}

type adminCheck struct{ adminFlags }

// Run compares the streams.
func (a *adminCheck) Run(ctx context.Context, out io.Writer) error {
	return a.onBus(ctx, func(ctx context.Context, b *bus.Bus) error {
		if err := b.Verify(ctx); err != nil {
			return err
		}
		return say(out, a.JSON, map[string]bool{"as_declared": true}, "the streams are as declared")
	})
}
