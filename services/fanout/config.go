package fanout

import (
	"errors"
	"fmt"

	"mimimi.example/pkg/mimimi"
	"mimimi.example/pkg/service"
)

// Config is fan-out's configuration file.
type Config struct {
	// Domain is the domain whose groups are fanned out. Required.
	Domain string `json:"domain"`
	// Bus is the connection to the bus. Required.
	Bus service.BusConfig `json:"bus"`
	// CachedLeaves bounds the rosters that one replica keeps in memory, by the leaves in them, some 300 bytes each; 0 means 200,000.
	CachedLeaves int `json:"cached_leaves"`
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
	if c.CachedLeaves < 0 {
		errs = append(errs, errors.New("cached_leaves: it cannot be negative"))
	}
	return errors.Join(errs...)
}

func (c *Config) cachedLeaves() int {
	if c.CachedLeaves == 0 {
		return maxCachedLeaves
	}
	return c.CachedLeaves
}
