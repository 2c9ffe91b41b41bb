package client_test

import (
	"context"
	"errors"
	"fmt"
	"log"
	"os"
	"path/filepath"
	"time"

	"mimimi.example/pkg/client"
	"mimimi.example/pkg/mimimi"
)

// echo accepts everybody who asks for a connection, and repeats what is said to it. README.md shows it.
func echo(ctx context.Context, c *client.Client, after uint64) error {
	for e, err := range c.Stream(ctx, after) {
		if err != nil {
			log.Print(err) // for the user to see; the stream tries again
			continue
		}
		switch e.Kind {
		case client.EventRequest:
			err = c.Accept(ctx, e.Request)
		case client.EventMessage:
			_, err = c.Send(ctx, e.Group, append([]byte("you said: "), e.Body...))
		}
		if err != nil {
			return err
		}
		// Here an app stores e.Seq, to go on behind it the next time.
	}
	return nil
}

// A program that answers: whoever connects with it and adds it to a group gets back what they say.
func Example() {
	ctx, stop := context.WithTimeout(context.Background(), time.Minute)
	defer stop()
	bot, alice := newcomer(ctx, "bot"), newcomer(ctx, "alice")
	defer bot.Close()
	defer alice.Close()

	must(alice.Connect(ctx, bot.User()))
	answering, hush := context.WithCancel(ctx)
	done := make(chan error)
	go func() { done <- echo(answering, bot, 0) }()
	await(ctx, alice, client.EventConnected)

	group, err := alice.CreateGroup(ctx, "echo")
	must(err)
	must(alice.Add(ctx, group, bot.User()))
	_, err = alice.Send(ctx, group, []byte("hello"))
	must(err)
	fmt.Printf("%s\n", await(ctx, alice, client.EventMessage).Body)

	hush()
	must(<-done)
	// Output: you said: hello
}

// A provider hands out a small file with all that a client must know of it. Registering makes the account and all keys, once; from then on the client is opened.
func ExampleRegister() {
	ctx := context.Background()
	dir, err := os.MkdirTemp("", "alice")
	must(err)
	defer os.RemoveAll(dir)

	info, err := client.LoadProviderInfo(theWorld.a.ClientFile())
	must(err)
	name := unique("alice") // the last part of mimi://a.localhost/u/NAME
	c, err := client.Register(ctx, client.Config{Dir: dir, Provider: info}, name)
	must(err)
	must(c.Close())

	c, err = client.Open(ctx, client.Config{Dir: dir})
	must(err)
	defer c.Close()
	fmt.Println(c.User().Domain(), c.User().Wire() == "mimi://a.localhost/u/"+name)
	// Output: a.localhost true
}

// Connecting: one asks, the other accepts, and both compare fingerprints over another channel.
func ExampleClient_Connect() {
	ctx, stop := context.WithTimeout(context.Background(), time.Minute)
	defer stop()
	alice, bob := newcomer(ctx, "alice"), newcomer(ctx, "bob")
	defer alice.Close()
	defer bob.Close()

	must(alice.Connect(ctx, bob.User()))
	request := await(ctx, bob, client.EventRequest)
	must(bob.Accept(ctx, request.Request))

	inSync, stopSync := context.WithCancel(ctx)
	done := keepInSync(inSync, bob)
	await(ctx, alice, client.EventConnected)
	await(ctx, bob, client.EventConnected)
	stopSync()
	<-done

	own, err := bob.Fingerprint(ctx)
	must(err)
	v, err := alice.Verify(ctx, bob.User())
	must(err)
	fmt.Println(request.User == alice.User(), len(v.Theirs) == 1 && v.Theirs[0] == own)

	// Errors can be matched.
	nobody, err := mimimi.ParseUser("mimi://b.localhost/u/nobody")
	must(err)
	fmt.Println(errors.Is(alice.Connect(ctx, nobody), client.ErrUnknownUser))
	// Output:
	// true true
	// true
}

// A group, and an invitation to it for somebody who is connected with nobody.
func ExampleClient_CreateGroup() {
	ctx, stop := context.WithTimeout(context.Background(), time.Minute)
	defer stop()
	alice, guest := newcomer(ctx, "alice"), newcomer(ctx, "guest")
	defer alice.Close()
	defer guest.Close()

	group, err := alice.CreateGroup(ctx, "friends")
	must(err)
	link, err := alice.Invite(ctx, group, client.InviteOptions{Uses: 1})
	must(err)

	joined, err := guest.Join(ctx, link) // the link comes by another way
	must(err)
	inSync, stopSync := context.WithCancel(ctx)
	done := keepInSync(inSync, alice) // the inviter's client lets the guest in
	await(ctx, guest, client.EventGroupJoined)
	stopSync()
	<-done

	members, err := guest.Members(ctx, joined)
	must(err)
	for _, m := range members {
		fmt.Println(m.Self, m.Admin, m.Identified)
	}
	// Output:
	// true false true
	// false true true
}

// Everything that happens comes as an event, once and in order, whatever happens to the process: the number of the last event is all that an app has to remember.
func ExampleClient_Stream() {
	ctx, stop := context.WithTimeout(context.Background(), time.Minute)
	defer stop()
	alice := newcomer(ctx, "alice")
	defer alice.Close()
	group, err := alice.CreateGroup(ctx, "notes")
	must(err)
	for i := range 3 {
		_, err := alice.Send(ctx, group, fmt.Appendf(nil, "note %d", i))
		must(err)
	}

	var last uint64
	for e, err := range alice.Stream(ctx, 0) {
		must(err)
		last = e.Seq
		if e.Kind == client.EventSent {
			fmt.Printf("%s\n", e.Body)
			break // as if the process ended here
		}
	}
	for e, err := range alice.Stream(ctx, last) {
		must(err)
		fmt.Printf("%s\n", e.Body)
		if string(e.Body) == "note 2" {
			break
		}
	}
	// Output:
	// note 0
	// note 1
	// note 2
}

// The state can be encrypted under a passphrase, or under a key that the app keeps elsewhere (Config.Key).
func ExampleConfig_passphrase() {
	ctx := context.Background()
	dir, err := os.MkdirTemp("", "alice")
	must(err)
	defer os.RemoveAll(dir)
	cfg := client.Config{Dir: filepath.Join(dir, "state"), Provider: theWorld.a.Info(), Passphrase: "correct horse battery staple"}
	c, err := client.Register(ctx, cfg, unique("alice"))
	must(err)
	must(c.Close())

	_, err = client.Open(ctx, client.Config{Dir: cfg.Dir, Passphrase: "a guess"})
	fmt.Println(errors.Is(err, client.ErrKey))
	c, err = client.Open(ctx, client.Config{Dir: cfg.Dir, Passphrase: cfg.Passphrase})
	must(err)
	must(c.Close())
	// Output: true
}

// unique makes a name that nobody has.
func unique(name string) string { return fmt.Sprintf("%s-%d", name, time.Now().UnixNano()) }

// newcomer registers somebody whose state is kept in memory.
func newcomer(ctx context.Context, name string) *client.Client {
	c, err := client.Register(ctx, client.Config{Store: newMemory(), Provider: theWorld.a.Info(), Stock: client.Stock{OneTime: 4, LastResort: 1}}, unique(name))
	must(err)
	return c
}

// await returns the first event of a kind.
func await(ctx context.Context, c *client.Client, kind client.EventKind) client.Event {
	for e, err := range c.Stream(ctx, 0) {
		must(err)
		if e.Kind == kind {
			return e
		}
	}
	panic(ctx.Err())
}

// keepInSync lets a client do its part until ctx ends; then it closes the channel.
func keepInSync(ctx context.Context, c *client.Client) <-chan struct{} {
	done := make(chan struct{})
	go func() {
		defer close(done)
		for _, err := range c.Stream(ctx, 0) {
			must(err)
		}
	}()
	return done
}

// check ends an example that cannot go on.
func must(err error) {
	if err != nil {
		panic(err)
	}
}
