package client_test

import (
	"context"
	"fmt"
	"log"

	"mimimi.example/pkg/client"
)

// An app keeps a client in sync: it waits for a hint, syncs, and shows what is new.
func Example() {
	ctx := context.Background()
	c, err := client.Open(ctx, client.Config{Dir: "/var/lib/chat"})
	if err != nil {
		log.Fatal(err)
	}
	defer c.Close()
	w, err := c.Watcher(ctx)
	if err != nil {
		log.Fatal(err)
	}
	defer w.Close()
	var seen uint64 // an app stores it with what it shows
	for {
		if err := c.Sync(ctx); err != nil {
			log.Print(err) // the next Sync tries again
		}
		events, err := c.Events(ctx, seen, 0)
		if err != nil {
			log.Fatal(err)
		}
		for _, e := range events {
			if e.Kind == client.EventMessage {
				fmt.Printf("%s: %s\n", e.User.Wire(), e.Body)
			}
			seen = e.Seq
		}
		if err := w.Reset(ctx, c); err != nil {
			log.Fatal(err)
		}
		if err := w.Wait(ctx); err != nil {
			return
		}
	}
}
