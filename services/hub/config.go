package hub

import (
	"errors"
	"fmt"

	"mimimi.example/pkg/mimimi"
	"mimimi.example/pkg/service"
)

// Config is the hub's configuration file.
type Config struct {
	// Domain is the hub's own domain: the groups that it serves have it in their ids. Required.
	Domain string `json:"domain"`
	// Bus is the connection to the bus. Required.
	Bus service.BusConfig `json:"bus"`
	// OHTTPKeyFiles are paths to the hub's OHTTP secret keys, the current one last; older ones stay until clients have the new key document. At least
	// one is required.
	OHTTPKeyFiles []string `json:"ohttp_key_files"`
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
