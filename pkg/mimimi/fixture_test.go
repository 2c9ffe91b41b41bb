package mimimi

import (
	"errors"
	"testing"
	"time"

	"mimimi.example/pkg/mls"
)

// noon is a Wednesday; its week began on 2026-11-23.
var noon = time.Date(2026, 11, 25, 12, 0, 0, 0, time.UTC)

// domain is a provider with its keys.
type domain struct {
	name     string
	identity mls.SignatureKey
	queue    mls.HPKEPrivateKey
	queueKey QueueKey
}

func newDomain(t testing.TB, name string) *domain {
	t.Helper()
	d := &domain{name: name, identity: must(Suite.GenerateSignatureKey()), queue: must(Suite.GenerateHPKEKey())}
	d.queueKey = QueueKey{KeyID: 7, Public: d.queue.Public(), Domain: name}
	return d
}

func (d *domain) queueKeys(id uint32) (mls.HPKEPrivateKey, bool) {
	return d.queue, id == d.queueKey.KeyID
}

// person is a user in one group: with one pseudonym.
type person struct {
	*domain
	user       User
	connection ConnectionKey
	pseudonym  UserPseudonym
}

func (d *domain) person(t testing.TB, name string) *person {
	t.Helper()
	return &person{d, must(ParseUser(uri(d.name, "u", name))), NewConnectionKey(), must(NewUserPseudonym(d.name))}
}

// device is one client of a person.
type device struct {
	*person
	client  Client
	certKey mls.SignatureKey
	cert    *ClientCertificate
	queueID QueueID
}

func (p *person) device(t testing.TB) *device {
	t.Helper()
	d := &device{person: p, client: must(NewClient(p.name)), certKey: must(Suite.GenerateSignatureKey()), queueID: NewQueueID()}
	d.cert = must(IssueClientCertificate(p.identity, p.user, d.client, d.certKey.Public(), noon, 365*day))
	return d
}

func (d *device) config() KeyPackageConfig {
	return KeyPackageConfig{
		ConnectionKey: d.connection, CertificateKey: d.certKey, Certificate: d.cert, UserPseudonym: d.pseudonym,
		QueueID: d.queueID, QueueKey: d.queueKey, Now: noon,
	}
}

// credential makes a fresh pseudonymous credential.
func (d *device) credential(t testing.TB) *PseudonymousCredential {
	t.Helper()
	return must(NewPseudonymousCredential(d.pseudonymConfig(must(NewClientPseudonym(d.name)))))
}

func (d *device) pseudonymConfig(client ClientPseudonym) PseudonymConfig {
	return PseudonymConfig{
		ConnectionKey: d.connection, CertificateKey: d.certKey, Certificate: d.cert, ClientPseudonym: client,
		UserPseudonym: d.pseudonym, SignatureKey: must(Suite.GenerateSignatureKey()).Public(), Now: noon,
	}
}

func must[T any](v T, err error) T {
	if err != nil {
		panic(err)
	}
	return v
}

// wantErr checks that err matches want, and that a rule is the one meant.
func wantErr(t testing.TB, err, want error, rule string) {
	t.Helper()
	if !errors.Is(err, want) {
		t.Fatalf("got error %v, want %v", err, want)
	}
	if r, ok := errors.AsType[*RuleError](err); rule != "" && (!ok || r.Rule != rule) {
		t.Fatalf("got %v, want the rule %q", err, rule)
	}
}

func wantOK(t testing.TB, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}
