package kpstore

import (
	"errors"
	"fmt"

	"mimimi.example/pkg/mimimi"
	"mimimi.example/pkg/service"
)

// Config is the store's configuration file.
type Config struct {
	// Domain is the provider domain whose users' KeyPackages are stored. Required.
	Domain string `json:"domain"`
	// Bus is the connection to the bus. Required.
	Bus service.BusConfig `json:"bus"`
	// OHTTPKeyFiles are paths to the store's OHTTP secret keys, the current one last; older ones stay until clients have the new key document. At
	// least one is required.
	OHTTPKeyFiles []string `json:"ohttp_key_files"`
	// ClaimsPerHour is how many sets one connection token may claim in one hour; 0 means 30.
	ClaimsPerHour uint32 `json:"claims_per_hour"`
	// ClaimsPerHourAndIssuer is how many sets of one user may be claimed in one hour with anonymous tokens that one domain issued, whatever the
	// connection tokens; 0 means 40.
	ClaimsPerHourAndIssuer uint32 `json:"claims_per_hour_and_issuer"`
}

// Load reads and checks a configuration file. An unknown key is an error.
func Load(path string) (*Config, error) {
	cfg := new(Config)
	if err := service.LoadJSON(path, cfg); err != nil {
		return nil, err
	}
	return cfg, cfg.Validate()
}

// Validate returns every problem at once.
func (c *Config) Validate() error {
	var errs []error
	if err := mimimi.CheckDomain(c.Domain); err != nil {
		errs = append(errs, fmt.Errorf("domain: %w", err))
	}
	if err := c.Bus.Validate(); err != nil {
		errs = append(errs, fmt.Errorf("bus: %w", err))
	}
	if len(c.OHTTPKeyFiles) == 0 {
		errs = append(errs, errors.New("ohttp_key_files: at least one key file is required"))
	}
	return errors.Join(errs...)
}

func (c *Config) limits() limits {
	l := limits{perAlias: c.ClaimsPerHour, perIssuer: c.ClaimsPerHourAndIssuer}
	if l.perAlias == 0 {
		l.perAlias = defaultClaimsPerHour
	}
	if l.perIssuer == 0 {
		l.perIssuer = defaultClaimsPerIssuer
	}
	return l
}
