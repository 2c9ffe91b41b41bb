package provider

import (
	"crypto/rsa"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"maps"
	"net/url"
	"os"
	"time"

	"mimimi.example/pkg/mimimi"
	"mimimi.example/pkg/mls"
	"mimimi.example/pkg/oblivious"
	"mimimi.example/pkg/service"
)

// Config is a provider's configuration. Secrets are paths to files, never values. Every key is required unless it says otherwise.
type Config struct {
	// Domain is the provider's own domain, such as a.example: users, clients and pseudonyms are in it.
	Domain string `json:"domain"`
	// Bus names the domain's bus.
	Bus service.BusConfig `json:"bus"`

	// AccountListen, AnonymousListen and FederationListen are the TCP addresses of the three listeners, host:port. They answer to the
	// host names account.<domain>, anonymous.<domain> and federation.<domain> only, each with its own certificate.
	AccountListen    string `json:"account_listen"`
	AnonymousListen  string `json:"anonymous_listen"`
	FederationListen string `json:"federation_listen"`

	// AccountCertFile and the five that follow are PEM files: the certificate chain and the key of each listener. The federation
	// certificate is also shown to peers as a client certificate.
	AccountCertFile    string `json:"account_cert_file"`
	AccountKeyFile     string `json:"account_key_file"`
	AnonymousCertFile  string `json:"anonymous_cert_file"`
	AnonymousKeyFile   string `json:"anonymous_key_file"`
	FederationCertFile string `json:"federation_cert_file"`
	FederationKeyFile  string `json:"federation_key_file"`

	// IdentityKeyFile holds the domain's identity key: mls.SignatureKey.MarshalBinary.
	IdentityKeyFile string `json:"identity_key_file"`
	// QueueSecretFile holds 32 random bytes, the same for all replicas, from which the domain's queue keys are derived: one for every four weeks, each kept for a year.
	// Whoever gets the file has the keys of all times: an operator who wants to erase old keys uses queue_key_files. Optional if there are queue_key_files.
	QueueSecretFile string `json:"queue_secret_file"`
	// QueueSecretsBefore are files of earlier secrets, by the first key id that is not theirs any more: what was derived from them stays, and a secret that got out makes no
	// keys from there on. `mimimi admin queue-secret` says what to write here. Optional.
	QueueSecretsBefore map[uint32]string `json:"queue_secrets_before"`
	// QueueKeyFiles are queue keys by key id: mls.HPKEPrivateKey.MarshalBinary. Without queue_secret_file the highest id is the one in use; beside it they
	// open only what was sealed before.
	QueueKeyFiles map[uint32]string `json:"queue_key_files"`
	// OHTTPKeyFiles are the inbox's OHTTP secrets, the current one last.
	OHTTPKeyFiles []string `json:"ohttp_key_files"`
	// OHTTPPublic are files with the public OHTTP configurations of the domain's other services, "hub" and "kpstore", the current one
	// last. They go into the key document.
	OHTTPPublic map[string][]string `json:"ohttp_public"`

	// Peers are the other domains. Optional.
	Peers []Peer `json:"peers"`
	// PeersDir is a folder of peer files (*.json: domain, url, ca_pem), read again every few seconds, so that a peer can be added or
	// moved while the provider runs. Optional.
	PeersDir string `json:"peers_dir"`
	// FederationCAFiles are PEM files of certificate authorities that may vouch for any domain. Optional: a peer's own CA is enough.
	FederationCAFiles []string `json:"federation_ca_files"`

	// ConnectionsPerAddress bounds the open connections of one network address at each of the two client listeners; 0 means 512. Behind a
	// load balancer that hides addresses it has to be larger.
	ConnectionsPerAddress int `json:"connections_per_address"`

	// TokenQuotas are how many anonymous tokens each client gets in a week, by operation ("claim", "connection request", "create group", "queue",
	// "upload"). Optional: an operation that is not named has its default. A change counts from the first week whose keys are not made yet, which
	// is the week after next at the latest.
	TokenQuotas map[mimimi.TokenOperation]uint16 `json:"token_quotas"`

	// NewIssuerKey, if set, makes issuer keys in place of mimimi.GenerateIssuerKey, which takes a tenth of a second each: for tests.
	NewIssuerKey func(operation mimimi.TokenOperation, epoch uint64) (*rsa.PrivateKey, error) `json:"-"`

	// OnListen, if set, is told the bound addresses as soon as all listeners are open.
	OnListen func(account, anonymous, federation string) `json:"-"`
}

// Peer is another domain.
type Peer struct {
	// Domain is the other domain's name.
	Domain string `json:"domain"`
	// URL is where its federation listener is reached, https://host:port. The certificate must be for federation.<domain> whatever the host.
	URL string `json:"url"`
	// CAFile is a PEM file with the authorities that may vouch for this domain, in both directions. Optional if federation_ca_files is set.
	CAFile string `json:"ca_file"`
}

// Load reads a strict config file and validates it.
func Load(path string) (*Config, error) {
	cfg := new(Config)
	if err := service.LoadJSON(path, cfg); err != nil {
		return nil, err
	}
	return cfg, cfg.Validate()
}

// Validate returns every problem at once. It does not read the files that are named.
func (c *Config) Validate() error {
	errs := []error{c.Bus.Validate()}
	if mimimi.CheckDomain(c.Domain) != nil {
		errs = append(errs, errors.New("domain: not a lower-case domain name"))
	}
	for _, k := range []struct{ key, value string }{
		{"account_listen", c.AccountListen}, {"anonymous_listen", c.AnonymousListen}, {"federation_listen", c.FederationListen},
		{"account_cert_file", c.AccountCertFile}, {"account_key_file", c.AccountKeyFile},
		{"anonymous_cert_file", c.AnonymousCertFile}, {"anonymous_key_file", c.AnonymousKeyFile},
		{"federation_cert_file", c.FederationCertFile}, {"federation_key_file", c.FederationKeyFile},
		{"identity_key_file", c.IdentityKeyFile},
	} {
		if k.value == "" {
			errs = append(errs, fmt.Errorf("%s: is required", k.key))
		}
	}
	if len(c.QueueKeyFiles) == 0 && c.QueueSecretFile == "" {
		errs = append(errs, errors.New("queue_secret_file: is required without queue_key_files"))
	}
	if len(c.QueueSecretsBefore) > 0 && c.QueueSecretFile == "" {
		errs = append(errs, errors.New("queue_secrets_before: needs queue_secret_file"))
	}
	if len(c.OHTTPKeyFiles) == 0 {
		errs = append(errs, errors.New("ohttp_key_files: at least one is required"))
	}
	if c.ConnectionsPerAddress < 0 {
		errs = append(errs, errors.New("connections_per_address: must not be negative"))
	}
	if _, err := c.quotas(); err != nil {
		errs = append(errs, fmt.Errorf("token_quotas: %w", err))
	}
	return errors.Join(append(append(errs, c.validatePublic()...), c.validatePeers()...)...)
}

// quotas are the quotas of all operations.
func (c *Config) quotas() (map[mimimi.TokenOperation]uint16, error) {
	q := maps.Clone(defaultQuotas)
	sum := 0
	for o, n := range c.TokenQuotas {
		if _, ok := defaultQuotas[o]; !ok || n == 0 {
			return nil, errors.New("a token quota is for claim, connection request, create group, queue or upload, and at least 1")
		}
		q[o] = n
	}
	for _, n := range q {
		sum += int(n)
	}
	if sum > mimimi.MaxTokenBatch {
		return nil, fmt.Errorf("token quotas are together at most %d", mimimi.MaxTokenBatch)
	}
	return q, nil
}

func (c *Config) validatePublic() (errs []error) {
	for _, name := range []string{"hub", "kpstore"} {
		if len(c.OHTTPPublic[name]) == 0 {
			errs = append(errs, fmt.Errorf("ohttp_public: a file for %q is required", name))
		}
	}
	if len(c.OHTTPPublic) > 2 {
		errs = append(errs, errors.New(`ohttp_public: only "hub" and "kpstore" are known`))
	}
	return errs
}

func (c *Config) validatePeers() (errs []error) {
	seen := map[string]bool{c.Domain: true}
	for i, p := range c.Peers {
		if err := checkPeer(p.Domain, p.URL); err != nil {
			errs = append(errs, fmt.Errorf("peers[%d]: %w", i, err))
		}
		if seen[p.Domain] {
			errs = append(errs, fmt.Errorf("peers[%d]: the domain is our own or was named before", i))
		}
		seen[p.Domain] = true
		if p.CAFile == "" && len(c.FederationCAFiles) == 0 {
			errs = append(errs, fmt.Errorf("peers[%d]: ca_file is required without federation_ca_files", i))
		}
	}
	return errs
}

// checkPeer checks a peer's name and URL.
func checkPeer(domain, rawURL string) error {
	if mimimi.CheckDomain(domain) != nil {
		return errors.New("domain: not a lower-case domain name")
	}
	u, err := url.Parse(rawURL)
	if err != nil || u.Scheme != "https" || u.Host == "" || u.User != nil || u.RawQuery != "" || u.Fragment != "" || (u.Path != "" && u.Path != "/") {
		return errors.New("url: must be https://host:port")
	}
	return nil
}

// keys is what the files of a Config hold.
type keys struct {
	identity                       mls.SignatureKey
	fakeSeed                       []byte // keys the answers about users that do not exist
	issuerSeal                     []byte // seals issuer keys where they are stored
	queue                          *queueKeys
	inbox                          [][]byte // OHTTP secrets
	public                         []mimimi.OHTTPKey
	account, anonymous, federation tls.Certificate
	anyDomain                      []*x509.Certificate // of federation_ca_files
}

// loadKeys reads every file that the config names, and returns every problem at once. Errors name config keys, not contents.
func loadKeys(c *Config, now func() time.Time) (*keys, error) {
	k := new(keys)
	queue, err := loadQueueKeys(c, now)
	k.queue = queue
	errs := []error{k.loadIdentity(c), err, k.loadOHTTP(c)}
	for _, l := range []struct {
		name, cert, key string
		into            *tls.Certificate
	}{
		{"account", c.AccountCertFile, c.AccountKeyFile, &k.account},
		{"anonymous", c.AnonymousCertFile, c.AnonymousKeyFile, &k.anonymous},
		{"federation", c.FederationCertFile, c.FederationKeyFile, &k.federation},
	} {
		var err error
		if *l.into, err = tls.LoadX509KeyPair(l.cert, l.key); err != nil {
			errs = append(errs, fmt.Errorf("%s_cert_file, %s_key_file: %w", l.name, l.name, err))
		}
	}
	for i, path := range c.FederationCAFiles {
		cas, err := loadCA(path)
		if err != nil {
			errs = append(errs, fmt.Errorf("federation_ca_files[%d]: %w", i, err))
		}
		k.anyDomain = append(k.anyDomain, cas...)
	}
	return k, errors.Join(errs...)
}

func (k *keys) loadIdentity(c *Config) error {
	b, err := os.ReadFile(c.IdentityKeyFile)
	if err != nil {
		return fmt.Errorf("identity_key_file: %w", err)
	}
	if err := k.identity.UnmarshalBinary(b); err != nil {
		return fmt.Errorf("identity_key_file: %w", err)
	}
	k.fakeSeed, k.issuerSeal = digest(labelFakeSeed, b), digest(labelIssuerSeal, b)
	return nil
}

// loadOHTTP reads the inbox's secrets and everybody's public configurations, in a fixed order: every replica signs the same document.
func (k *keys) loadOHTTP(c *Config) error {
	for _, name := range []string{"hub", "kpstore"} {
		for _, path := range c.OHTTPPublic[name] {
			b, err := os.ReadFile(path)
			if err != nil {
				return fmt.Errorf("ohttp_public: %w", err)
			}
			k.public = append(k.public, mimimi.OHTTPKey{Service: name, Config: b})
		}
	}
	for _, path := range c.OHTTPKeyFiles {
		b, err := os.ReadFile(path)
		if err != nil {
			return fmt.Errorf("ohttp_key_files: %w", err)
		}
		public, err := oblivious.PublicConfig(b)
		if err != nil {
			return fmt.Errorf("ohttp_key_files: %w", err)
		}
		k.inbox = append(k.inbox, b)
		k.public = append(k.public, mimimi.OHTTPKey{Service: "inbox", Config: public})
	}
	return nil
}
