package client_test

import (
	"testing"
	"time"

	"mimimi.example/pkg/client"
	"mimimi.example/pkg/mimimi"
	"mimimi.example/pkg/mls"
)

// TestFalseCertificates: a member adds a leaf whose identity link opens and whose certificate does not hold. The members identify nobody by it, and remove it; they hold nothing against the adder,
// which may know less than they do.
func TestFalseCertificates(t *testing.T) {
	c := newCast(t)
	spy := theWorld.opB.impostor(t, "b.localhost", "mimi://b.localhost/u/mallory")
	var identity mls.SignatureKey
	theWorld.opB.key(t, "identity.key", &identity)
	stranger, err := mimimi.Suite.GenerateSignatureKey()
	check(t, err)
	issue := func(t *testing.T, by mls.SignatureKey, at time.Time, life time.Duration) *mimimi.ClientCertificate {
		t.Helper()
		cert, err := mimimi.IssueClientCertificate(by, spy.cert.User, spy.cert.Client, spy.certKey.Public(), at, life)
		check(t, err)
		return cert
	}
	for _, x := range []struct {
		name string
		cert func(t *testing.T) *mimimi.ClientCertificate
		in   bool // one whose certificate holds, for comparison
	}{
		{"that holds", func(t *testing.T) *mimimi.ClientCertificate { return issue(t, identity, time.Now(), 365*day) }, true},
		{"signed by another key than the domain's", func(t *testing.T) *mimimi.ClientCertificate { return issue(t, stranger, time.Now(), 365*day) }, false},
		{"that has ended", func(t *testing.T) *mimimi.ClientCertificate {
			return issue(t, identity, time.Now().Add(-100*day), 90*day)
		}, false},
	} {
		t.Run(x.name, func(t *testing.T) {
			spy.cert = x.cert(t)
			kp, _ := spy.keyPackage()
			in := c.inside(c.eve)
			_, err := offer(t, in.ID, adding(t, in, []*mls.KeyPackage{kp}, []mimimi.LinkKey{spy.linkKey(kp)}, func([]*mimimi.LinkKey) {}))
			check(t, err)
			group, epoch := c.group[c.alice], in.Group.Epoch()
			want := epoch + 2
			if x.in {
				want = epoch + 1
			}
			until(t, "alice is done with it", func() bool { return client.Epoch(c.alice.c, group) == want }, c.alice)
			check(t, c.alice.c.Sync(t.Context()))
			all, err := c.alice.c.Members(t.Context(), group)
			check(t, err)
			seen := false
			for _, m := range all {
				seen = seen || m.User == spy.cert.User
			}
			if seen != x.in || client.Unidentified(c.alice.c, group) != 0 || client.Epoch(c.alice.c, group) != want || !c.alice.sees(group, c.eve) || c.told(c.alice, c.eve) {
				t.Errorf("mallory is seen: %v, %d are not identified, epoch %d (want %d), eve is seen: %v", seen, client.Unidentified(c.alice.c, group), client.Epoch(c.alice.c, group), want, c.alice.sees(group, c.eve))
			}
			c.t = t
			c.anew()
		})
	}
}
