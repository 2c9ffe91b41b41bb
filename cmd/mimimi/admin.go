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
	JSON   bool   `help:"Print one JSON object."`
}

// onBus connects and does something.
func (a *adminFlags) onBus(ctx context.Context, do func(ctx context.Context, b *bus.Bus) error) error {
	options, err := busOptions(a.Config, "admin")
	if err != nil {
		return err
	}
	ctx, cancel := context.WithTimeout(ctx, adminTime)
	defer cancel()
	return connected(ctx, options, do)
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
