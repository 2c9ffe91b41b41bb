package main

import (
	"context"
	"crypto/rand"
	"io"
	"time"

	"mimimi.example/pkg/bus"
	providers "mimimi.example/services/provider"
)

type adminRotateIssuer struct{ adminFlags }

// Run has the keys for tokens made anew that are not announced yet.
func (a *adminRotateIssuer) Run(ctx context.Context, out io.Writer) error {
	return a.audited(ctx, "rotate-issuer", "", adminTime, func(ctx context.Context, b *bus.Bus) error {
		n, from, err := providers.RotateIssuerKeys(ctx, b, time.Now())
		if err != nil {
			return err
		}
		begins := from.UTC().Format(time.RFC3339)
		return say(out, a.JSON, map[string]any{"removed": n, "from": begins}, "removed %d keys; those for %s and later are made anew", n, begins)
	})
}

type adminQueueSecret struct {
	Out  string `required:"" type:"path" help:"File to write the new secret to. It must not be there yet."`
	JSON bool   `help:"Print one JSON object."`
}

// Run makes a secret for queue keys and says how it takes the old one's place.
func (a *adminQueueSecret) Run(out io.Writer) error {
	secret := make([]byte, 32)
	_, _ = rand.Read(secret) // never fails
	if err := writeNew(a.Out, secret); err != nil {
		return err
	}
	id := providers.NextQueueKeyID(time.Now())
	begins := providers.QueueKeyBegins(id).UTC().Format(time.RFC3339)
	return say(out, a.JSON, map[string]any{"file": a.Out, "first_key_id": id, "from": begins},
		"wrote %s. Before %s, at all providers: \"queue_secret_file\" names the new file, and \"queue_secrets_before\": {\"%d\": …} the one that it named. Then the old one makes no more keys, and opens for a year what was sealed to those that it made.",
		a.Out, begins, id)
}
