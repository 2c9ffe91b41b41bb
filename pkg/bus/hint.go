package bus

import (
	"strings"

	"github.com/nats-io/nats.go"
)

const hintPrefix = "hint."

// Hint tells whoever watches s that it may have changed. It may be lost; nothing that matters hangs on it. s must be concrete.
func (b *Bus) Hint(s Subject) {
	if s.name == "" || s.family() {
		panic("bus: a hint names one concrete subject")
	}
	if err := b.nc.Publish(hintPrefix+s.name, nil); err != nil {
		b.log.Debug("a hint was lost")
	}
}

// Watch calls f, one call at a time, for each hint of s (a family is allowed) until stop. f must return soon: hints that pile up are dropped.
func (b *Bus) Watch(s Subject, f func()) (stop func(), err error) {
	return b.watch(s.name, func(string) { f() })
}

// WatchAll calls f for each hint of a family's first token, as in "group", with the subject in the form of Message.Subject.
func (b *Bus) WatchAll(family string, f func(subject string)) (stop func(), err error) {
	return b.watch(family+".>", f)
}

func (b *Bus) watch(pattern string, f func(subject string)) (stop func(), err error) {
	sub, err := b.nc.Subscribe(hintPrefix+pattern, func(m *nats.Msg) { f(strings.TrimPrefix(m.Subject, hintPrefix)) })
	if err != nil {
		return nil, problemOf(err)
	}
	if err := sub.SetPendingLimits(maxHintPending, maxHintPendingBytes); err != nil {
		_ = sub.Unsubscribe()
		return nil, problemOf(err)
	}
	// The subscription must be known to the server before the caller reads the state that hints are about.
	if err := b.nc.FlushTimeout(requestTimeout); err != nil {
		_ = sub.Unsubscribe()
		return nil, problemOf(err)
	}
	return func() { _ = sub.Unsubscribe() }, nil
}
