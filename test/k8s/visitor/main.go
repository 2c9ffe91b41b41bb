// Command visitor is what deploy/k8s is tested with from inside a cluster but outside of the domains: it uses them as their users do, through their Services.
//
//	visitor wait                        does nothing until it is stopped
//	visitor dial HOST:PORT...           opens a TCP connection to each and says whether it could, in JSON
//	visitor listen ADDRESS              takes connections and closes them
//	visitor load -a FILE -b FILE ...    keeps people on two domains writing to each other until it is told to stop, and says what was lost or came twice
//	visitor tell WORD                   tells the load in the same pod to begin a new part, or to stop
package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net"
	"os"
	"os/signal"
	"syscall"
	"time"
)

// dialTime is how long a connection is waited for: one that is dropped on the way says nothing.
const dialTime = 3 * time.Second

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	err := run(ctx, os.Args[1:])
	stop()
	if err != nil {
		fmt.Fprintln(os.Stderr, "visitor:", err)
		os.Exit(1)
	}
}

func run(ctx context.Context, args []string) error {
	if len(args) == 0 {
		return errors.New("what? wait, dial, listen, load or tell")
	}
	switch command, args := args[0], args[1:]; command {
	case "wait":
		<-ctx.Done()
		return nil
	case "dial":
		return dial(ctx, args)
	case "listen":
		return listen(ctx, args)
	case "tell":
		return tell(ctx, args)
	case "load":
		return load(ctx, args)
	default:
		return fmt.Errorf("there is no command %q", command)
	}
}

// dial says for each address whether a fresh connection opens.
func dial(ctx context.Context, addresses []string) error {
	opened := make(map[string]bool)
	for _, a := range addresses {
		d := net.Dialer{Timeout: dialTime}
		c, err := d.DialContext(ctx, "tcp", a)
		opened[a] = err == nil
		if err == nil {
			if err := c.Close(); err != nil {
				return err
			}
		}
	}
	return json.NewEncoder(os.Stdout).Encode(opened)
}

func listen(ctx context.Context, args []string) error {
	if len(args) != 1 {
		return errors.New("listen takes one address")
	}
	l, err := net.Listen("tcp", args[0])
	if err != nil {
		return err
	}
	stop := context.AfterFunc(ctx, func() { _ = l.Close() }) // it ends Accept, which is all that it is for
	defer stop()
	for {
		c, err := l.Accept()
		if ctx.Err() != nil {
			return nil
		}
		if err != nil {
			return err
		}
		if err := c.Close(); err != nil {
			return err
		}
	}
}
