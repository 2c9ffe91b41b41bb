package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"strings"
	"time"

	"mimimi.example/pkg/client"
	"mimimi.example/pkg/mimimi"
)

// deviceCommand holds what is done with the user's own devices.
type deviceCommand struct {
	Link    deviceLink    `cmd:"" help:"Make this folder another device of a user, and show the code to approve."`
	Approve deviceApprove `cmd:"" help:"Let in the new device that shows a code."`
	List    deviceList    `cmd:"" help:"List the user's devices."`
	Remove  deviceRemove  `cmd:"" help:"Remove a device: it reads nothing more, and what it knew is replaced."`
}

// devicePoll is how often link and approve look for the other side: somebody waits at both screens.
const devicePoll = time.Second

// approveWait is how long approve waits for the new device; what is left then goes on with listen.
const approveWait = 30 * time.Second

type deviceLink struct {
	folderFlags
	Provider string `required:"" type:"existingfile" help:"The provider's client.json."`
	User     string `arg:"" help:"The user, mimi://DOMAIN/u/NAME."`
}

// Run prints the code and waits until the device is linked; a code that expires is replaced. It may be stopped and run again.
func (d *deviceLink) Run(ctx context.Context, out io.Writer) error {
	info, err := provider(d.Provider)
	if err != nil {
		return err
	}
	user, err := mimimi.ParseUser(d.User)
	if err != nil {
		return err
	}
	cfg, err := d.config()
	if err != nil {
		return err
	}
	cfg.Provider = info
	shown := ""
	for {
		c, err := client.Link(ctx, cfg, user)
		if err != nil {
			return err
		}
		code, err := c.LinkCode(ctx)
		if err != nil {
			return errors.Join(err, c.Close())
		}
		if code != "" && code != shown {
			shown = code
			if err := say(out, d.JSON, map[string]string{"user": d.User, "code": code, "state": "waiting"},
				"at another device of %s, run: mimimi device approve %s", d.User, code); err != nil {
				return errors.Join(err, c.Close())
			}
		}
		linked, err := d.wait(ctx, c)
		fingerprint, ferr := c.Fingerprint(ctx)
		if err := errors.Join(err, ferr, c.Close()); err != nil {
			return err
		}
		if linked {
			return say(out, d.JSON, map[string]string{"user": d.User, "state": "linked", "fingerprint": fingerprint},
				"this is a device of %s\nfingerprint %s\n`mimimi listen` brings it into your groups", d.User, fingerprint)
		}
	}
}

// wait syncs until the device is linked, or its code has expired.
func (d *deviceLink) wait(ctx context.Context, c *client.Client) (linked bool, err error) {
	for {
		err := c.Sync(ctx)
		code, cerr := c.LinkCode(ctx)
		switch {
		case cerr != nil:
			return false, cerr
		case code == "":
			return true, nil // what else failed is the next command's
		case errors.Is(err, client.ErrLinkExpired):
			return false, nil
		case err != nil:
			return false, err
		}
		if err := pause(ctx, devicePoll); err != nil {
			return false, err
		}
	}
}

func pause(ctx context.Context, d time.Duration) error {
	select {
	case <-ctx.Done():
		return ctx.Err()
	case <-time.After(d):
		return nil
	}
}

type deviceApprove struct {
	folderFlags
	Code string `arg:"" help:"The code that the new device shows."`
}

// Run lets a device in and waits a while for it.
func (d *deviceApprove) Run(ctx context.Context, out io.Writer) error {
	return d.with(ctx, func(c *client.Client) error {
		before, err := linkedDevices(ctx, c)
		if err != nil {
			return err
		}
		if err := c.ApproveDevice(ctx, d.Code); err != nil {
			return err
		}
		until := time.Now().Add(approveWait)
		for time.Now().Before(until) {
			if err := c.Sync(ctx); err != nil {
				return err
			}
			after, err := linkedDevices(ctx, c)
			if err != nil {
				return err
			}
			if after > before {
				return say(out, d.JSON, map[string]string{"state": "linked"}, "the device is linked; `mimimi listen` brings it into your groups")
			}
			if err := pause(ctx, devicePoll); err != nil {
				return err
			}
		}
		return say(out, d.JSON, map[string]string{"state": "approved"}, "approved; `mimimi listen` goes on when the device is online")
	})
}

func linkedDevices(ctx context.Context, c *client.Client) (n int, err error) {
	list, err := c.Devices(ctx)
	for _, x := range list {
		if x.Linked {
			n++
		}
	}
	return n, err
}

// shortID is the part of a device's URI that people read and type.
func shortID(uri string) string { return uri[strings.LastIndexByte(uri, '/')+1:] }

type deviceList struct{ folderFlags }

// Run lists the devices.
func (d *deviceList) Run(ctx context.Context, out io.Writer) error {
	return d.with(ctx, func(c *client.Client) error {
		list, err := c.Devices(ctx)
		if err != nil {
			return err
		}
		type row struct {
			ID          string `json:"id"`
			Self        bool   `json:"self"`
			Linked      bool   `json:"linked"`
			Fingerprint string `json:"fingerprint"`
		}
		rows := make([]row, len(list))
		for i, x := range list {
			rows[i] = row{shortID(x.ID), x.Self, x.Linked, x.Fingerprint}
		}
		if d.JSON {
			return printJSON(out, rows)
		}
		for _, x := range rows {
			state := ""
			switch {
			case x.Self:
				state = "  this one"
			case !x.Linked:
				state = "  not linked: on its way in or out, or none of yours"
			}
			if _, err := fmt.Fprintf(out, "%s  %s%s\n", x.ID, x.Fingerprint, state); err != nil {
				return err
			}
		}
		return nil
	})
}

type deviceRemove struct {
	folderFlags
	ID string `arg:"" help:"The device, as device list shows it."`
}

// Run removes a device.
func (d *deviceRemove) Run(ctx context.Context, out io.Writer) error {
	return d.with(ctx, func(c *client.Client) error {
		list, err := c.Devices(ctx)
		if err != nil {
			return err
		}
		for _, x := range list {
			if x.ID != d.ID && shortID(x.ID) != d.ID {
				continue
			}
			if err := c.RemoveDevice(ctx, x.ID); err != nil {
				return err
			}
			return say(out, d.JSON, map[string]string{"id": shortID(x.ID), "state": "removed"},
				"removed; `mimimi listen` replaces at your contacts what it knew")
		}
		return client.ErrUnknownDevice
	})
}
