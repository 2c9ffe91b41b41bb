package main

import (
	"context"
	"errors"
	"io"
	"io/fs"
	"os"
	"path/filepath"

	"mimimi.example/pkg/client"
	"mimimi.example/pkg/mimimi"
)

type disconnectCommand struct {
	folderFlags
	User string `arg:"" help:"The contact, mimi://DOMAIN/u/NAME."`
}

// Run ends a connection, or takes back a request.
func (d *disconnectCommand) Run(ctx context.Context, out io.Writer) error {
	user, err := mimimi.ParseUser(d.User)
	if err != nil {
		return err
	}
	return d.with(ctx, func(c *client.Client) error {
		if err := c.Disconnect(ctx, user); err != nil {
			return err
		}
		return say(out, d.JSON, map[string]string{"user": d.User, "state": "disconnected"},
			"disconnected from %s: the token is revoked; groups that you are both in stay as they are", d.User)
	})
}

// accountCommand holds the commands about the whole account.
type accountCommand struct {
	Delete accountDeleteCommand `cmd:"" help:"Delete the account with all its clients, for good."`
}

type accountDeleteCommand struct {
	folderFlags
	Yes bool `help:"Really do it: there is no way back, and the name is not given out again."`
}

// Run deletes the account. Called again after it was interrupted, it goes on.
func (a *accountDeleteCommand) Run(ctx context.Context, out io.Writer) error {
	if !a.Yes {
		return errors.New("this deletes the account with all its clients, for good, and the name is not given out again: add -yes to do it")
	}
	return a.local(ctx, func(c *client.Client) error {
		user := c.User().Wire()
		if err := c.DeleteAccount(ctx); err != nil {
			return err
		}
		if err := os.Remove(filepath.Join(a.Dir, printedFile)); err != nil && !errors.Is(err, fs.ErrNotExist) {
			return err
		}
		return say(out, a.JSON, map[string]string{"user": user, "state": "deleted"}, "%s is deleted", user)
	})
}
