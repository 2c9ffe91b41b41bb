// Command mlsclient serves mls_client.MLSClient, the public interface by which implementations of MLS are tried against each other, over pkg/mls.
//
// It is for tests: it hands out private keys, which the interface asks for, and takes whatever anybody sends to it. Everything that it answers is the
// library's behaviour; it holds no more than what must be remembered between two calls.
package main

import (
	"context"
	"flag"
	"fmt"
	"net"
	"os"
	"os/signal"
	"syscall"
)

func main() {
	listen := flag.String("listen", "127.0.0.1:50051", "host and port to serve gRPC on, without TLS")
	name := flag.String("name", "mimimi pkg/mls", "what the client calls itself")
	flag.Parse()
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	if err := run(ctx, *listen, *name); err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
}

// run serves until ctx is done.
func run(ctx context.Context, listen, name string) error {
	ln, err := net.Listen("tcp", listen)
	if err != nil {
		return err
	}
	fmt.Println("serving on", ln.Addr())
	s := newGRPC(newServer(name))
	stop := context.AfterFunc(ctx, s.GracefulStop)
	defer stop()
	return s.Serve(ln)
}
