// Command mimimi runs MIMIMI: all services of a domain in one process (up), a whole conversation across two domains (demo), and the client.
package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/signal"
	"regexp"
	"syscall"

	"github.com/alecthomas/kong"
)

// version is set by the linker in release builds.
var version = "development"

// cli is the command line.
type cli struct {
	Up   upCommand   `cmd:"" help:"Run all services of one or more domains in this process."`
	Demo demoCommand `cmd:"" help:"Run two domains and a conversation across them, then print what each server saw of it."`

	Admin  adminCommand  `cmd:"" help:"Prepare and check the NATS of a deployment of separate programs."`
	Canary canaryCommand `cmd:"" help:"Send messages between two test users and measure how long they take."`
	Replay replayCommand `cmd:"" help:"Print the history of groups, rebuild their state from the log and say where it departs from what the services did."`

	Register   registerCommand   `cmd:"" group:"client" help:"Make an account and a client whose state is in a folder."`
	Connect    connectCommand    `cmd:"" group:"client" help:"Ask a user for a connection."`
	Requests   requestsCommand   `cmd:"" group:"client" help:"List connection requests."`
	Accept     acceptCommand     `cmd:"" group:"client" help:"Accept a connection request."`
	Reject     rejectCommand     `cmd:"" group:"client" help:"Drop a connection request in silence."`
	Contacts   contactsCommand   `cmd:"" group:"client" help:"List contacts."`
	Disconnect disconnectCommand `cmd:"" group:"client" help:"End the connection with a contact, or take back a request."`
	Domains    domainsCommand    `cmd:"" group:"client" help:"List the domains met, and whether their keys are known to be everybody's."`
	Verify     verifyCommand     `cmd:"" group:"client" help:"Show the fingerprints to compare with a contact."`
	Group      groupCommand      `cmd:"" group:"client" help:"Create and manage groups."`
	Device     deviceCommand     `cmd:"" group:"client" help:"Link and manage the user's own devices."`
	Send       sendCommand       `cmd:"" group:"client" help:"Send a message to a group."`
	Listen     listenCommand     `cmd:"" group:"client" help:"Print what happens, as it happens."`
	Account    accountCommand    `cmd:"" group:"client" help:"Delete the account."`

	Version kong.VersionFlag `help:"Print the version."`
}

// oneDash matches a long flag written with one dash, Go's way.
var oneDash = regexp.MustCompile(`^-[a-z][a-z-]+(=.*)?$`)

// twoDashes lets -json stand for --json.
func twoDashes(args []string) []string {
	out := make([]string, len(args))
	for i, a := range args {
		if a == "--" {
			copy(out[i:], args[i:])
			break
		}
		if oneDash.MatchString(a) {
			a = "-" + a
		}
		out[i] = a
	}
	return out
}

// run is main without the process: it returns the exit code, which is 3 if a replay found a divergence, 2 for a wrong command line and 1 for all else that failed.
func run(ctx context.Context, args []string, stdout, stderr io.Writer) int {
	var c cli
	code := -1
	parser, err := kong.New(&c, kong.Name("mimimi"), kong.Writers(stdout, stderr), kong.Vars{"version": version},
		kong.Description("Group messaging whose servers do not learn who talks to whom."),
		kong.UsageOnError(), kong.ConfigureHelp(kong.HelpOptions{Compact: true}),
		kong.Exit(func(n int) { code = n }),
		kong.BindTo(ctx, (*context.Context)(nil)), kong.BindTo(stdout, (*io.Writer)(nil)), kong.Bind(newProgress(stderr)))
	if err != nil {
		fmt.Fprintln(stderr, "mimimi:", err)
		return 2
	}
	k, err := parser.Parse(twoDashes(args))
	if code >= 0 { // --help or --version
		return code
	}
	if err != nil {
		fmt.Fprintln(stderr, "mimimi:", err)
		return 2
	}
	if err := k.Run(); err != nil {
		fmt.Fprintln(stderr, "mimimi:", explain(err))
		if errors.Is(err, errDiverges) {
			return 3
		}
		return 1
	}
	return 0
}

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	code := run(ctx, os.Args[1:], os.Stdout, os.Stderr)
	stop()
	os.Exit(code)
}
