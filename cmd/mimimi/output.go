package main

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"slices"
	"strings"
	"time"

	"mimimi.example/pkg/client"
	"mimimi.example/pkg/problem"
)

// printJSON prints one value as one line.
func printJSON(w io.Writer, v any) error { return json.NewEncoder(w).Encode(v) }

// say prints a line of text, or the same as JSON.
func say(w io.Writer, asJSON bool, v any, format string, args ...any) error {
	if asJSON {
		return printJSON(w, v)
	}
	_, err := fmt.Fprintf(w, format+"\n", args...)
	return err
}

// explain adds what a person can do about an error, where the error does not say it itself.
func explain(err error) string {
	lines := strings.Split(explanation(err), "\n") // joined errors stand on lines of their own
	for i := range lines {
		lines[i] = printable(strings.ReplaceAll(lines[i], "client: ", "")) // a sentence may come from another domain's server
	}
	return strings.Join(slices.Compact(lines), "; ") // what failed and what came of it may say the same
}

func explanation(err error) string {
	if some, ok := errors.AsType[*client.AddError](err); ok {
		all := []string{"not everybody could be added"}
		for i, u := range some.Users {
			all = append(all, u.Wire()+": "+explanation(some.Reasons[i]))
		}
		return strings.Join(all, "\n")
	}
	if none, ok := errors.AsType[*client.NoTokensError](err); ok {
		return fmt.Sprintf("no anonymous tokens are left this week for %q: the next ones are good from %s", none.Operation, none.Next.Local().Format("Mon 2006-01-02 15:04"))
	}
	switch {
	case errors.Is(err, client.ErrUnknownGroup):
		return err.Error() + ": `mimimi group list` shows yours"
	case errors.Is(err, client.ErrUnknownRequest):
		return err.Error() + ": `mimimi requests` shows those that wait"
	case errors.Is(err, client.ErrBadInvitation):
		return err.Error() + ": it is over, or was not copied whole; ask for a new one"
	case errors.Is(err, client.ErrNotRegistered):
		return err.Error() + ": run `mimimi register` first, or name the right folder with -dir"
	case errors.Is(err, client.ErrKey):
		return err.Error() + ": give the passphrase that it was registered with, by -passphrase-file"
	case errors.Is(err, client.ErrNotConnected):
		return err.Error() + ": run `mimimi connect`, and wait until the other side has accepted"
	case errors.Is(err, client.ErrUnknownDevice):
		return err.Error() + ": run `mimimi device link` on the new device for a code, `mimimi device list` for the devices that you have"
	case errors.Is(err, client.ErrNotReady):
		return err.Error() + ": it needs the inviter's client to be online; run `mimimi listen`"
	case problem.KindOf(err) == problem.Unavailable:
		return err.Error() + " (is the provider up?)"
	}
	return err.Error()
}

// eventJSON is an event as -json prints it.
type eventJSON struct {
	Seq     uint64 `json:"seq"`
	Kind    string `json:"kind"`
	Time    string `json:"time"`
	Group   string `json:"group,omitempty"`
	Name    string `json:"group_name,omitempty"`
	User    string `json:"user,omitempty"`
	Request string `json:"request,omitempty"`
	Message string `json:"message,omitempty"`
	Body    string `json:"body,omitempty"`
	Text    string `json:"text,omitempty"`
	Device  string `json:"device,omitempty"`
}

// printEvent prints one event. names maps a group's local id to its label.
func printEvent(w io.Writer, asJSON bool, e client.Event, names map[string]string) error {
	who := e.User.Wire()
	if asJSON {
		return printJSON(w, eventJSON{
			Seq: e.Seq, Kind: string(e.Kind), Time: e.Time.UTC().Format(time.RFC3339), Group: e.Group, Name: names[e.Group],
			User: who, Request: e.Request, Message: string(e.Message), Body: string(e.Body), Text: e.Text, Device: shortID(e.Device),
		})
	}
	_, err := fmt.Fprintf(w, "%s  %s\n", e.Time.Local().Format("15:04:05"), describe(e, who, label(e.Group, names)))
	return err
}

// label returns how a group is shown.
func label(group string, names map[string]string) string {
	if n := names[group]; n != "" {
		return n
	}
	return group
}

// describe is one event in words.
func describe(e client.Event, who, group string) string {
	if who == "" {
		who = "somebody unidentified"
	}
	switch e.Kind {
	case client.EventMessage, client.EventSent:
		return fmt.Sprintf("[%s] %s: %s", group, who, printable(string(e.Body)))
	case client.EventJoined:
		return fmt.Sprintf("[%s] %s joined", group, who)
	case client.EventLeft:
		return fmt.Sprintf("[%s] %s left", group, who)
	case client.EventRemoved:
		return fmt.Sprintf("[%s] %s was removed", group, who)
	case client.EventRequest:
		return fmt.Sprintf("%s asks for a connection: mimimi accept %s", who, e.Request)
	case client.EventConnected:
		return "connected with " + who
	case client.EventPolicy:
		return fmt.Sprintf("[%s] %s changed the policy", group, who)
	case client.EventBanned:
		return fmt.Sprintf("[%s] %s is banned", group, who)
	case client.EventUnbanned:
		return fmt.Sprintf("[%s] %s is not banned any more", group, who)
	case client.EventDisconnected:
		return who + " has ended the connection"
	case client.EventRevoked:
		return "a client of " + who + " was revoked by its provider: remove the member if you did not expect that"
	case client.EventGroupJoined:
		return fmt.Sprintf("[%s] you are in", group)
	case client.EventLinked:
		return "this device is linked: " + shortID(e.Device)
	case client.EventDeviceAdded:
		return "a new device of yours was let in: " + shortID(e.Device)
	case client.EventDeviceRemoved:
		return "a device of yours was removed: " + shortID(e.Device)
	case client.EventGroupOver:
		return fmt.Sprintf("[%s] over: %s", group, e.Text)
	case client.EventUncompared:
		return fmt.Sprintf("keys of %s, not compared: %s", e.Domain, e.Text)
	case client.EventCutOff:
		return e.Text
	case client.EventKeyDocument:
		return fmt.Sprintf("keys of %s: %s", e.Domain, e.Text)
	}
	if e.Group != "" {
		return fmt.Sprintf("[%s] %s: %s", group, e.Kind, e.Text)
	}
	return fmt.Sprintf("%s: %s", e.Kind, e.Text)
}

// printable replaces what could move a terminal's cursor or change its colours: content comes from others.
func printable(s string) string {
	return strings.Map(func(r rune) rune {
		if r == '\t' || (r >= 0x20 && r != 0x7f && (r < 0x80 || r > 0x9f)) {
			return r
		}
		return '\uFFFD'
	}, s)
}
