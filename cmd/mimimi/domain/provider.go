package domain

import (
	"sync"

	"mimimi.example/services/provider"
)

// providerConfig is one provider replica's configuration. The first one's addresses are the domain's; they are kept for the next start.
func (d *Domain) providerConfig(replica int, listening *sync.WaitGroup) *provider.Config {
	key := func(name string) string { return d.folder.path("keys", name) }
	tls := func(name string) string { return d.folder.path("tls", name) }
	listening.Add(1)
	return &provider.Config{
		Domain:        d.o.Domain,
		AccountListen: d.address(replica, "account"), AnonymousListen: d.address(replica, "anonymous"), FederationListen: d.address(replica, "federation"),
		AccountCertFile: tls("account.pem"), AccountKeyFile: tls("account.key"),
		AnonymousCertFile: tls("anonymous.pem"), AnonymousKeyFile: tls("anonymous.key"),
		FederationCertFile: tls("federation.pem"), FederationKeyFile: tls("federation.key"),
		IdentityKeyFile: key("identity.key"),
		QueueSecretFile: key("queue.secret"),
		QueueKeyFiles:   d.folder.oldQueueKeys(),
		OHTTPKeyFiles:   []string{key("ohttp-inbox.key")},
		OHTTPPublic:     map[string][]string{"hub": {key("ohttp-hub.pub")}, "kpstore": {key("ohttp-kpstore.pub")}},
		TokenQuotas:     d.o.TokenQuotas, NewIssuerKey: d.o.NewIssuerKey, PeersDir: d.folder.path("peers"),
		OnListen: func(account, anonymous, federation string) {
			if replica == 0 {
				d.state.Addresses = map[string]string{"account": account, "anonymous": anonymous, "federation": federation}
			}
			listening.Done()
		},
	}
}
