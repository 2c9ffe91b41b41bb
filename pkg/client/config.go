package client

import (
	"bytes"
	"crypto/x509"
	"encoding/json"
	"errors"
	"fmt"
	"net/url"
	"os"
	"time"

	"mimimi.example/pkg/mimimi"
)

// ProviderInfo is what a client must know of its provider before it can register: a provider hands it out as a small JSON file.
type ProviderInfo struct {
	// Domain is the provider's domain, such as "a.example".
	Domain string `json:"domain"`
	// AccountURL and AnonymousURL are the https base URLs of the two channels (docs/protocol.md §12). Their host names differ.
	AccountURL   string `json:"account_url"`
	AnonymousURL string `json:"anonymous_url"`
	// CA holds the PEM certificates that the provider's TLS certificates chain to; empty means the system's.
	CA string `json:"ca,omitempty"`
	// IdentityKey is the domain's Ed25519 identity key, which certifies its users and signs its key document. It is pinned.
	IdentityKey []byte `json:"identity_key"`
}

// LoadProviderInfo reads and checks a provider's JSON file. An unknown key is an error.
func LoadProviderInfo(path string) (ProviderInfo, error) {
	b, err := os.ReadFile(path)
	if err != nil {
		return ProviderInfo{}, err
	}
	var p ProviderInfo
	d := json.NewDecoder(bytes.NewReader(b))
	d.DisallowUnknownFields()
	if err := d.Decode(&p); err != nil {
		return ProviderInfo{}, fmt.Errorf("read provider info: %w", err)
	}
	return p, p.Validate()
}

// Validate returns every problem of p at once.
func (p *ProviderInfo) Validate() error {
	var errs []error
	if err := mimimi.CheckDomain(p.Domain); err != nil {
		errs = append(errs, errors.New("provider info: domain is not a lower-case domain name"))
	}
	account, err1 := checkURL(p.AccountURL)
	anonymous, err2 := checkURL(p.AnonymousURL)
	if err1 != nil || err2 != nil {
		errs = append(errs, errors.New("provider info: account_url and anonymous_url must be https URLs with a host"))
	} else if account == anonymous {
		errs = append(errs, errors.New("provider info: account_url and anonymous_url must name different hosts"))
	}
	if p.CA != "" && !x509.NewCertPool().AppendCertsFromPEM([]byte(p.CA)) {
		errs = append(errs, errors.New("provider info: ca holds no PEM certificate"))
	}
	if len(p.IdentityKey) != identityKeySize {
		errs = append(errs, errors.New("provider info: identity_key must be an Ed25519 public key"))
	}
	return errors.Join(errs...)
}

// checkURL returns the host name of an https URL.
func checkURL(s string) (string, error) {
	u, err := url.Parse(s)
	if err != nil {
		return "", err
	}
	if u.Scheme != "https" || u.Hostname() == "" {
		return "", errors.New("not an https URL")
	}
	return u.Hostname(), nil
}

// Config says where a client's state is and how it runs. Dir is required; Provider is needed by Register only, since the store keeps it.
type Config struct {
	// Dir is the folder of the client's state, made if it is missing. It must be readable by its owner only: it holds every secret.
	Dir string
	// Store, if set, holds the state in place of a file in Dir. The Client closes it.
	Store Store
	// Key (32 bytes) or Passphrase, if one is set, encrypts the state: values, and the keys under which they stand. It is the same for every Open.
	Key        []byte
	Passphrase string
	// Provider is the user's provider.
	Provider ProviderInfo
	// Now is the clock; nil means time.Now.
	Now func() time.Time
	// Stock is how many KeyPackage sets are kept at the store; zero fields mean the defaults.
	Stock Stock
	// Spread is the time over which what touches all groups of the user is spread, since a burst would link them (protocol.md §8). Zero means 24 hours; a
	// negative value means at once.
	Spread time.Duration
	// Tap, if set, is told every sensitive value that this client makes or learns, with one of the Tap… kinds, so that a privacy recorder can
	// search for it in what services see. nil in production. It may be called from several goroutines and must not keep the slices.
	Tap func(kind string, values ...[]byte)
}

// Stock is a number of KeyPackage sets of each kind (docs/protocol.md §8).
type Stock struct {
	OneTime    int // 0 means 50
	LastResort int // 0 means 10
}

// The kinds that Config.Tap is called with.
const (
	TapUser            = "user"             // a user's URI, own or another's
	TapClient          = "client"           // the own client's URI
	TapCertificate     = "certificate"      // an own client certificate
	TapConnectionKey   = "connection key"   // own or a contact's
	TapConnectionToken = "connection token" // own or a contact's
	TapLinkKey         = "link key"         // identity link key of any leaf
	TapQueueID         = "queue id"         // own
	TapInviteSecret    = "invite secret"    // of an own invitation
	TapPseudonym       = "pseudonym"        // user or client pseudonym of an own leaf
	TapToken           = "token"            // anonymous token that is about to leave
	TapRequestToken    = "request token"    // the same for a connection request
	TapContent         = "content"          // content of a message sent
)

// withDefaults returns cfg with its zero values replaced.
func (cfg Config) withDefaults() (Config, error) {
	switch {
	case cfg.Dir == "" && cfg.Store == nil:
		return cfg, errors.New("client config: Dir or Store is required")
	case cfg.Key != nil && cfg.Passphrase != "":
		return cfg, errors.New("client config: Key and Passphrase exclude each other")
	case cfg.Key != nil && len(cfg.Key) != dataKey:
		return cfg, errors.New("client config: Key must be 32 bytes")
	}
	if cfg.Now == nil {
		cfg.Now = time.Now
	}
	if cfg.Spread == 0 {
		cfg.Spread = spreadOver
	}
	if cfg.Stock.OneTime == 0 {
		cfg.Stock.OneTime = defaultOneTime
	}
	if cfg.Stock.LastResort == 0 {
		cfg.Stock.LastResort = defaultLastResort
	}
	if cfg.Stock.OneTime < 0 || cfg.Stock.LastResort < 0 || cfg.Stock.OneTime+cfg.Stock.LastResort > maxStock {
		return cfg, errors.New("client config: Stock is negative or larger than the store allows")
	}
	return cfg, nil
}
