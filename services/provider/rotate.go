package provider

import (
	"context"
	"errors"
	"strconv"
	"strings"
	"time"

	"mimimi.example/pkg/bus"
	"mimimi.example/pkg/mimimi"
)

// rotateMargin is how long before a week begins its keys are not touched any more: a replica whose clock is ahead may have announced them.
const rotateMargin = time.Hour

var errRotateNow = errors.New("provider: a week begins within the hour: rotate after Monday 00:00 UTC")

// RotateIssuerKeys removes the issuer keys that are made and not announced yet, those from the week after next on, so that others are made when they are needed, with the quotas of then. It returns
// how many there were and the first week of which they are, as it begins. Keys that a document has announced stay: two documents of one week would end the use of both. It is for the admin user.
func RotateIssuerKeys(ctx context.Context, b *bus.Bus, now time.Time) (n int, from time.Time, err error) {
	present := mimimi.TokenEpoch(now)
	from = mimimi.EpochStart(present + 2)
	if mimimi.EpochStart(present+1).Sub(now) < rotateMargin {
		return 0, from, errRotateNow
	}
	page, more, err := b.Read(ctx, b.IssuerKeys(), 0, maxIssuerKeys, maxIssuerKeys*maxIssuerEntry)
	if err != nil {
		return 0, from, err
	}
	if more {
		return 0, from, errors.New("provider: there are more issuer keys than any domain makes")
	}
	for _, m := range page {
		parts := strings.Split(m.Subject, ".")
		epoch, err := strconv.ParseUint(parts[1], 10, 64)
		if err != nil {
			return n, from, errCorrupt
		}
		if epoch < present+2 {
			continue
		}
		if _, err := b.Remove(ctx, b.IssuerKeys(), m.Sequence); err != nil {
			return n, from, err
		}
		n++
	}
	return n, from, nil
}

// maxIssuerKeys and maxIssuerEntry bound what ISSUER holds: six weeks of five keys, and some identity keys' worth of them.
const (
	maxIssuerKeys  = 512
	maxIssuerEntry = 16 << 10
)
