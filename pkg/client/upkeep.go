package client

import (
	"context"
)

// keepUp does what comes with time and not with a message: the connection key's monthly change.
func (c *Client) keepUp(ctx context.Context) error {
	return distinct([]error{c.rotateIfDue(), c.watchRevocations(ctx)})
}
