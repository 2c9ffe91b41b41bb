package client

import (
	"math/rand/v2"
	"time"

	mimimiv1 "mimimi.example/api/mimimi/v1"
)

// clientCount is how many clients the user has, this one included: so many KeyPackages make a complete set.
func (c *Client) clientCount() int { return 1 }

// tellDevices hands a change of what the user's clients share to the others, by a message in the group of the user's own clients. If there are none it does nothing.
func (c *Client) tellDevices(Tx, *mimimiv1.DeviceSync) error { return nil }

// leads says whether this client is the one of the user's clients that does what one of them has to do for all, such as monthly rotation.
func (c *Client) leads() bool { return true }

// spread returns a random time within Config.Spread: what touches all of a user's groups at once is put off by it for each of them (protocol.md §8).
func (c *Client) spread() time.Duration {
	if c.cfg.Spread <= 0 {
		return 0
	}
	return rand.N(c.cfg.Spread)
}
