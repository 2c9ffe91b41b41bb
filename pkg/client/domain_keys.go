package client

import (
	"context"
	"errors"
	"slices"
	"strings"
	"time"
)

// KeyState says what is known of a domain's keys.
type KeyState string

// The states of a domain's keys. A key that is shown to one client only would tell what that client does from what others do.
const (
	KeysCompared   KeyState = "compared"   // another domain's provider shows the same
	KeysAlone      KeyState = "alone"      // taken on trust: no other domain is known that could be asked
	KeysUnanswered KeyState = "unanswered" // taken on trust: nobody who was asked has answered yet
	KeysRefused    KeyState = "refused"    // another domain's provider shows others: they are not used
)

// DomainKeys is what this client knows of the keys of one domain that it has met.
type DomainKeys struct {
	Domain string
	State  KeyState
	Since  time.Time // when that began; zero for KeysCompared, and for a domain of which nothing was used yet
}

// DomainKeys returns what is known of the keys of all domains that this client has met, ordered by name. It needs no network.
func (c *Client) DomainKeys(ctx context.Context) (all []DomainKeys, err error) {
	err = c.lockedFor(ctx, func() error {
		return c.view(func(tx Tx) error {
			err := each(tx, bucketPins, func(k []byte, r *pinRecord) error {
				all = append(all, r.keys(string(k)))
				return nil
			})
			if err != nil {
				return err
			}
			return each(tx, bucketRefused, func(k []byte, r *refusalRecord) error {
				all = slices.DeleteFunc(all, func(d DomainKeys) bool { return d.Domain == string(k) })
				all = append(all, DomainKeys{Domain: string(k), State: KeysRefused, Since: timeOf(r.At)})
				return nil
			})
		})
	})
	slices.SortFunc(all, func(a, b DomainKeys) int { return strings.Compare(a.Domain, b.Domain) })
	return all, err
}

func (r *pinRecord) keys(domain string) DomainKeys {
	switch {
	case r.Compared:
		return DomainKeys{Domain: domain, State: KeysCompared}
	case r.Unanswered != 0:
		return DomainKeys{Domain: domain, State: KeysUnanswered, Since: timeOf(r.Unanswered)}
	case r.Uncompared != 0:
		return DomainKeys{Domain: domain, State: KeysAlone, Since: timeOf(r.Uncompared)}
	}
	return DomainKeys{Domain: domain, State: KeysAlone}
}

const (
	aloneKeys   = "no other domain is known that could be asked whether these keys are everybody's: they are taken on trust"
	blockedKeys = "nobody who was asked has said whether these keys are everybody's: somebody may keep the answers back, to tell what you do there from what others do"
)

// tellUncompared says that a domain's keys have been in use for long without having been compared: once where nobody can be asked, every week where nobody answers.
func (c *Client) tellUncompared(domain string, pin *pinRecord, alone bool) error {
	since, text := pin.Unanswered, blockedKeys
	due := c.now().Sub(timeOf(pin.Told)) >= uncomparedAgain
	if alone {
		since, text, due = pin.Uncompared, aloneKeys, !pin.ToldAlone
	}
	if !due || pin.Compared || pin.Document == nil || since == 0 || c.now().Sub(timeOf(since)) < uncomparedFor {
		return nil
	}
	return c.update(func(tx Tx) error {
		if pin.ToldAlone = pin.ToldAlone || alone; !alone {
			pin.Told = c.now().Unix()
		}
		return errors.Join(write(tx, bucketPins, []byte(domain), pin), c.addEvent(tx, eventRecord{Kind: EventUncompared, Domain: domain, Text: text}))
	})
}
