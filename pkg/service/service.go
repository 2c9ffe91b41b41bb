// Package service is the process plumbing that all services share: the command line, strict configuration, logging, signals, the bus connection, the private
// listener, and the tap of the privacy recorder.
//
// Guarantees: a service runs only on a bus whose streams are as declared; nothing but this package's structured log is written to standard error; a
// request's path from a client leaves no line in it.
package service

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"io"
	"log"
	"log/slog"
	"net"
	"net/http"
	"os"
	"os/signal"
	"runtime/debug"
	"sync/atomic"
	"syscall"
	"time"

	"go.opentelemetry.io/otel"

	"mimimi.example/pkg/bus"
	"mimimi.example/pkg/problem"
	"mimimi.example/pkg/telemetry"
)

// Env is what a service gets from its process (or from `mimimi up`, which runs several in one).
type Env struct {
	Bus *bus.Bus
	Log *slog.Logger
	// Now is the clock; tests control it. Never nil.
	Now func() time.Time
	// Tap, if set, is given everything that this role can see of a request or response (opened ones included), for the privacy recorder; it is called
	// concurrently. nil in production.
	Tap func(kind string, parts ...[]byte)
	// Front, if set, stands before the handler of each kind of request, opened ones included, as a malicious operator could: for tests of what others
	// then do. nil in production.
	Front func(kind string, h http.Handler) http.Handler
	// Telemetry makes the service's instruments; nil measures nothing.
	Telemetry *telemetry.Telemetry
}

// Run is a service's main function: it serves until ctx is done, then finishes what it accepted.
type Run = func(ctx context.Context, e *Env) error

// Main is what every cmd/<service>/main.go calls. It understands -config (required), -check (read the configuration, say whether it is good, and exit) and -version,
// connects to the bus, refuses to run on streams that have drifted, and runs until SIGINT or SIGTERM; a second signal ends the process at once. Exit
// codes: 0 stopped as asked, 1 failed, 2 wrong usage or configuration.
func Main(name string, load func(path string) (run func(ctx context.Context, e *Env) error, err error)) {
	log.SetOutput(io.Discard) // libraries that print: their lines may hold addresses
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	context.AfterFunc(ctx, stop)
	code := command(ctx, name, os.Args[1:], os.Stdout, os.Stderr, load)
	stop()
	os.Exit(code)
}

const (
	exitOK     = 0
	exitFailed = 1
	exitUsage  = 2
)

// command is Main without the process.
func command(ctx context.Context, name string, args []string, stdout, stderr io.Writer, load func(string) (Run, error)) int {
	flags := flag.NewFlagSet(name, flag.ContinueOnError)
	flags.SetOutput(stderr)
	path := flags.String("config", "", "path to the configuration file (required)")
	check := flags.Bool("check", false, "check the configuration and exit")
	version := flags.Bool("version", false, "print the version and exit")
	if err := flags.Parse(args); err != nil {
		return exitUsage
	}
	if *version {
		_, _ = fmt.Fprintf(stdout, "%s %s\n", name, buildVersion())
		return exitOK
	}
	if *path == "" || flags.NArg() > 0 {
		_, _ = fmt.Fprintf(stderr, "usage: %s -config FILE [-check]\n", name)
		return exitUsage
	}
	run, err := load(*path)
	var own *ownConfig
	if err == nil {
		own, err = loadOwn(*path)
	}
	if err != nil {
		_, _ = fmt.Fprintf(stderr, "%s: %v\n", name, err)
		return exitUsage
	}
	if *check {
		_, _ = fmt.Fprintf(stdout, "%s: the configuration is good\n", name)
		return exitOK
	}
	l := slog.New(slog.NewJSONHandler(stderr, nil)).With(slog.String("service", name))
	if err := serve(ctx, name, own, l, run); err != nil {
		l.ErrorContext(ctx, "stopped", slog.String("error", err.Error()))
		return exitFailed
	}
	return exitOK
}

// buildVersion is the module's version, or the revision that it was built from.
func buildVersion() string {
	info, ok := debug.ReadBuildInfo()
	if !ok {
		return "unknown"
	}
	for _, s := range info.Settings {
		if s.Key == "vcs.revision" {
			return s.Value
		}
	}
	return info.Main.Version
}

// serve listens for probes, connects, verifies, runs, and tears down in the opposite order: the probes are answered to the end.
func serve(ctx context.Context, name string, own *ownConfig, l *slog.Logger, run Run) (err error) {
	options, err := own.Bus.Options(name)
	if err != nil {
		return err
	}
	tel, err := telemetry.New(own.Process.OTLP.options(name))
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, drain(ctx, tel.Shutdown)) }()
	l = tel.Log(l)
	options.Log, options.Traces, options.Meters = l, tel.Traces(), tel
	otel.SetMeterProvider(tel)
	ready := &readiness{stopping: ctx.Done()}
	private, err := listenPrivate(own.Process.PrivateListen, ready, tel)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, drain(ctx, private.Shutdown)) }()
	b, err := bus.Connect(ctx, options)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, drain(ctx, b.Close)) }()
	if err := verify(ctx, b); err != nil {
		return err
	}
	ready.bus.Store(b)
	l.InfoContext(ctx, "started", slog.String("version", buildVersion()))
	err = run(ctx, &Env{Bus: b, Log: l, Now: time.Now, Telemetry: tel})
	l.InfoContext(ctx, "stopping")
	return err
}

// verify compares the streams. A bus that does not answer yet, and a deployment that is not initialised yet, are waited for: servers, services and what makes the streams start together.
func verify(ctx context.Context, b *bus.Bus) error {
	ctx, cancel := context.WithTimeout(ctx, verifyTimeout)
	defer cancel()
	for {
		err := b.Verify(ctx)
		if err == nil || !errors.Is(err, bus.ErrNotInitialised) && problem.KindOf(err) != problem.Unavailable {
			return err
		}
		select {
		case <-ctx.Done():
			return err
		case <-time.After(verifyPause):
		}
	}
}

// drain calls f with a deadline of its own, since ctx is done by then.
func drain(ctx context.Context, f func(context.Context) error) error {
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), drainTimeout)
	defer cancel()
	return f(ctx)
}

// readiness is what /readyz answers.
type readiness struct {
	stopping <-chan struct{}         // closed once the process is asked to stop
	bus      atomic.Pointer[bus.Bus] // nil until its streams are verified
}

// problem says why the process should get no work; "" if it may.
func (r *readiness) problem() string {
	select {
	case <-r.stopping:
		return "the service is stopping"
	default:
	}
	b := r.bus.Load()
	if b == nil {
		return "the service waits for the bus and its streams"
	}
	if b.Ready() != nil {
		return "the bus connection is down, or the service does not answer its calls"
	}
	return ""
}

// listenPrivate serves /metrics, /healthz (the process runs) and /readyz (its bus connection stands, its streams are as declared, it answers its calls, and nobody has asked it to
// stop). With no address it serves nothing.
func listenPrivate(addr string, ready *readiness, tel *telemetry.Telemetry) (*http.Server, error) {
	mux := http.NewServeMux()
	mux.Handle("GET /metrics", tel.Handler())
	mux.HandleFunc("GET /healthz", func(w http.ResponseWriter, _ *http.Request) { w.WriteHeader(http.StatusNoContent) })
	mux.HandleFunc("GET /readyz", func(w http.ResponseWriter, _ *http.Request) {
		if p := ready.problem(); p != "" {
			http.Error(w, p, http.StatusServiceUnavailable)
			return
		}
		w.WriteHeader(http.StatusNoContent)
	})
	s := &http.Server{Handler: mux, ReadHeaderTimeout: headerTimeout, ErrorLog: log.New(io.Discard, "", 0)}
	if addr == "" {
		return s, nil
	}
	ln, err := net.Listen("tcp", addr)
	if err != nil {
		return nil, fmt.Errorf("private listener: %w", err)
	}
	go func() { _ = s.Serve(ln) }() // returns when Shutdown is called; until then a broken listener shows as a failing probe
	return s, nil
}
