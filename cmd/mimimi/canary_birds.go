package main

import (
	"context"
	"crypto/rand"
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"sync"
	"time"

	"mimimi.example/pkg/client"
	"mimimi.example/pkg/mimimi"
	"mimimi.example/pkg/problem"
)

// canary is two test users who are in a group with each other.
type canary struct {
	dir               string
	metrics           *canaryMetrics
	birds             [2]*bird
	stop              context.CancelFunc
	listening         sync.WaitGroup
	delivered, failed int
}

// bird is one test user. It lives in its folder, which has to be kept: another one cannot have its name.
type bird struct {
	c       *client.Client
	group   string
	arrived chan string // contents of messages
	ended   chan error  // why it does not listen any more
}

// openBird opens the folder's user, or makes it.
func openBird(ctx context.Context, cfg client.Config, name string) (*bird, error) {
	c, err := client.Open(ctx, cfg)
	if errors.Is(err, client.ErrNotRegistered) {
		c, err = client.Register(ctx, cfg, name)
	}
	if err != nil {
		return nil, err
	}
	return &bird{c: c, arrived: make(chan string, maxArrived), ended: make(chan error, 1)}, nil
}

// close ends both.
func (k *canary) close() error {
	if k.stop != nil {
		k.stop()
	}
	k.listening.Wait()
	var errs []error
	for _, b := range k.birds {
		if b != nil {
			errs = append(errs, b.c.Close())
		}
	}
	return errors.Join(errs...)
}

// until syncs both users until done says so. What fails may pass until ctx ends.
func (k *canary) until(ctx context.Context, done func() (bool, error)) error {
	for {
		synced := errors.Join(k.birds[0].c.Sync(ctx), k.birds[1].c.Sync(ctx))
		ok, err := done()
		if ok {
			return nil
		}
		if kind := problem.KindOf(err); err != nil && kind != problem.Unavailable && kind != problem.NotFound && kind != problem.Limited {
			return err
		}
		select {
		case <-ctx.Done():
			return errors.Join(ctx.Err(), err, synced)
		case <-time.After(canaryPoll):
		}
	}
}

// meet connects the two.
func (k *canary) meet(ctx context.Context) error {
	one, two := k.birds[0].c, k.birds[1].c
	return k.until(ctx, func() (bool, error) {
		state, err := contactState(ctx, one, two.User())
		other, err2 := contactState(ctx, two, one.User())
		if err := errors.Join(err, err2); err != nil {
			return false, err
		}
		switch {
		case state == client.ContactConnected && other == client.ContactConnected:
			return true, nil
		case state == "":
			return false, one.Connect(ctx, two.User())
		}
		requests, err := two.Requests(ctx)
		if i := slices.IndexFunc(requests, func(r client.Request) bool { return r.From == one.User() }); err == nil && i >= 0 {
			err = two.Accept(ctx, requests[i].ID)
		}
		return false, err
	})
}

// contactState is what a client has of a contact, "" for nothing.
func contactState(ctx context.Context, c *client.Client, u mimimi.User) (client.ContactState, error) {
	all, err := c.Contacts(ctx)
	for _, contact := range all {
		if contact.User == u {
			return contact.State, err
		}
	}
	return "", err
}

// gather puts both into one group.
func (k *canary) gather(ctx context.Context) error {
	one, two := k.birds[0], k.birds[1]
	return k.until(ctx, func() (bool, error) {
		mine, members, err := groupOf(ctx, one.c)
		if err != nil {
			return false, err
		}
		if mine == "" {
			if mine, err = one.c.CreateGroup(ctx, "canary"); err != nil {
				return false, err
			}
		}
		theirs, _, err := groupOf(ctx, two.c)
		if err != nil {
			return false, err
		}
		one.group, two.group = mine, theirs
		if theirs == "" && members < 2 {
			return false, one.c.Add(ctx, mine, two.c.User())
		}
		return theirs != "", nil
	})
}

// groupOf is the one group of a test user, "" if it has none yet.
func groupOf(ctx context.Context, c *client.Client) (id string, members int, err error) {
	all, err := c.Groups(ctx)
	for _, g := range all {
		if g.State == client.GroupActive {
			return g.ID, g.Members, err
		}
	}
	return "", 0, err
}

// listen lets both keep in sync and hear of messages, until close.
func (k *canary) listen(ctx context.Context) error {
	ctx, k.stop = context.WithCancel(ctx)
	for _, b := range k.birds {
		after, err := b.last(ctx)
		if err != nil {
			return err
		}
		k.listening.Go(func() { b.ended <- b.listen(ctx, after) })
	}
	return nil
}

// last is the number of the newest event.
func (b *bird) last(ctx context.Context) (after uint64, err error) {
	for {
		events, err := b.c.Events(ctx, after, 0)
		if err != nil || len(events) == 0 {
			return after, err
		}
		after = events[len(events)-1].Seq
	}
}

// listen hands on what arrives. What nobody looks at is let go.
func (b *bird) listen(ctx context.Context, after uint64) error {
	var last error
	for e, err := range b.c.Stream(ctx, after) {
		if last = err; err != nil || e.Kind != client.EventMessage {
			continue // a Sync that fails is tried again
		}
		select {
		case b.arrived <- string(e.Body):
		default:
		}
	}
	return last
}

var (
	errCanaryFull = errors.New("the canary's folder has grown to its bound: delete it and start with another --name")
	errCanaryOver = errors.New("a test user does not listen any more: its folder cannot be used")
)

// round sends one message, in turn from each of the two, and waits for it at the other. An error means that the next one is no use.
func (k *canary) round(ctx context.Context, n int, timeout time.Duration) (arrived bool, err error) {
	if size, err := folderSize(k.dir); err != nil || size > maxCanaryData {
		return false, errors.Join(err, errCanaryFull)
	}
	from, to := k.birds[n%2], k.birds[(n+1)%2]
	text, start := "canary "+rand.Text(), time.Now()
	limited, cancel := context.WithTimeout(ctx, timeout)
	defer cancel()
	_, err = from.c.Send(limited, from.group, []byte(text))
	for err == nil && !arrived {
		select {
		case got := <-to.arrived:
			arrived = got == text
		case end := <-to.ended:
			if ctx.Err() == nil {
				return false, errors.Join(errCanaryOver, end)
			}
			err = errCanaryOver
		case <-limited.Done():
			err = limited.Err()
		}
	}
	if ctx.Err() != nil && !arrived {
		return false, nil // asked to stop
	}
	k.metrics.count(ctx, arrived, time.Since(start))
	if arrived {
		k.delivered++
	} else {
		k.failed++
	}
	return arrived, nil
}

// folderSize is how many bytes a folder's files have. A file that goes away meanwhile has none.
func folderSize(dir string) (size int64, err error) {
	err = filepath.WalkDir(dir, func(_ string, d fs.DirEntry, err error) error {
		if err != nil || d.IsDir() {
			return err
		}
		info, err := d.Info()
		if errors.Is(err, os.ErrNotExist) {
			return nil
		}
		if err == nil {
			size += info.Size()
		}
		return err
	})
	return size, err
}
