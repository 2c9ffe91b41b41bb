package service

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"

	"mimimi.example/pkg/bus"
	"mimimi.example/pkg/telemetry"
)

// BusConfig is the part of every service's configuration file that names the bus.
type BusConfig struct {
	// URL is the servers, comma-separated, as in "nats://nats-0:4222,nats://nats-1:4222". Required.
	URL string `json:"url"`
	// NKeyFile is the path to the seed of the service's NATS user; "" for a server without authentication.
	NKeyFile string `json:"nkey_file"`
	// DeploymentKeyFile is the path to the deployment key: 32 bytes, the same for all services. Required.
	DeploymentKeyFile string `json:"deployment_key_file"`
	// Partitions is the number of GROUP, QUEUE and KP streams, fixed when the deployment was initialised; 0 means 8.
	Partitions int `json:"partitions"`
	// Replicas of every stream: 1 or 3; 0 means 1.
	Replicas int `json:"replicas"`
}

// maxPartitions is the bus's own bound, checked here so that -check finds it.
const maxPartitions = 1024

// Validate returns every problem at once. It reads no file.
func (c *BusConfig) Validate() error {
	var errs []error
	if c.URL == "" {
		errs = append(errs, errors.New("url: it is required"))
	}
	if c.DeploymentKeyFile == "" {
		errs = append(errs, errors.New("deployment_key_file: it is required"))
	}
	if c.Partitions < 0 || c.Partitions > maxPartitions {
		errs = append(errs, errors.New("partitions: from 1 to 1024, or 0 for 8"))
	}
	if c.Replicas != 0 && c.Replicas != 1 && c.Replicas != 3 {
		errs = append(errs, errors.New("replicas: 1 or 3"))
	}
	return errors.Join(errs...)
}

// Options is how a service connects. It reads the deployment key.
func (c *BusConfig) Options(name string) (bus.Options, error) {
	key, err := os.ReadFile(c.DeploymentKeyFile)
	if err != nil {
		return bus.Options{}, fmt.Errorf("read deployment key: %w", err)
	}
	return bus.Options{
		URL: c.URL, NKeyFile: c.NKeyFile, Service: name,
		Layout: bus.Layout{Partitions: c.Partitions, Replicas: c.Replicas, DeploymentKey: key},
	}, nil
}

// processConfig is the section "process" that every configuration file may have. LoadJSON checks it and keeps it from the service.
type processConfig struct {
	// PrivateListen is the address of the listener for /metrics, /healthz and /readyz, as in "127.0.0.1:9090"; "" for none. It has no
	// authentication: it must not be reachable from outside.
	PrivateListen string `json:"private_listen"`
	// OTLP is where traces and metrics are sent.
	OTLP otlpConfig `json:"otlp"`
}

// otlpConfig is the part of the section "process" that names an OpenTelemetry collector. What is sent there passes the allow-list of package telemetry.
type otlpConfig struct {
	// Endpoint is the base URL of an OTLP/HTTP receiver, as in "http://127.0.0.1:4318"; "" sends nothing.
	Endpoint string `json:"endpoint"`
	// Sample is the share of traces that is kept, from 0 to 1; 0 means 0.01.
	Sample float64 `json:"sample"`
}

func (c *otlpConfig) options(service string) telemetry.Options {
	return telemetry.Options{Service: service, OTLP: c.Endpoint, Sample: c.Sample}
}

// validate returns every problem of the section at once.
func (c *processConfig) validate() error {
	o := c.OTLP.options("hub") // the name is the program's, not the file's
	if err := o.Validate(); err != nil {
		return fmt.Errorf("otlp: %w", err)
	}
	return nil
}

// processKey is the section's key.
const processKey = "process"

// LoadJSON reads a strict configuration file into a struct: an unknown key, a second value and anything after the first are errors. The section "process" is the
// process's own and not given to the service.
func LoadJSON(path string, into any) error {
	sections, err := readSections(path)
	if err != nil {
		return err
	}
	if raw, ok := sections[processKey]; ok {
		process := new(processConfig)
		if err := errors.Join(strict(raw, process), process.validate()); err != nil {
			return fmt.Errorf("read configuration: process: %w", err)
		}
		delete(sections, processKey)
	}
	rest, err := json.Marshal(sections)
	if err != nil {
		return fmt.Errorf("read configuration: %w", err)
	}
	if err := strict(rest, into); err != nil {
		return fmt.Errorf("read configuration: %w", err)
	}
	return nil
}

// readSections reads a file's top-level keys.
func readSections(path string) (map[string]json.RawMessage, error) {
	f, err := os.Open(path)
	if err != nil {
		return nil, fmt.Errorf("read configuration: %w", err)
	}
	defer f.Close()
	b, err := io.ReadAll(io.LimitReader(f, maxConfig+1))
	if err != nil {
		return nil, fmt.Errorf("read configuration: %w", err)
	}
	if len(b) > maxConfig {
		return nil, errors.New("read configuration: the file has more than 1 MiB")
	}
	var sections map[string]json.RawMessage
	if err := strict(b, &sections); err != nil {
		return nil, fmt.Errorf("read configuration: %w", err)
	}
	if sections == nil {
		return nil, errors.New("read configuration: it must be a JSON object")
	}
	return sections, nil
}

// strict decodes exactly one JSON value.
func strict(b []byte, into any) error {
	d := json.NewDecoder(bytes.NewReader(b))
	d.DisallowUnknownFields()
	if err := d.Decode(into); err != nil {
		return err
	}
	if _, err := d.Token(); !errors.Is(err, io.EOF) {
		return errors.New("something follows the configuration")
	}
	return nil
}

// ownConfig is what Main itself needs of a service's file.
type ownConfig struct {
	Bus     BusConfig
	Process processConfig
}

// loadOwn reads it; the service's own Load has been strict with the rest.
func loadOwn(path string) (*ownConfig, error) {
	sections, err := readSections(path)
	if err != nil {
		return nil, err
	}
	c := new(ownConfig)
	raw, ok := sections["bus"]
	if !ok {
		return nil, errors.New("read configuration: the section bus is required")
	}
	if err := strict(raw, &c.Bus); err != nil {
		return nil, fmt.Errorf("read configuration: bus: %w", err)
	}
	if err := c.Bus.Validate(); err != nil {
		return nil, fmt.Errorf("read configuration: bus: %w", err)
	}
	if raw, ok := sections[processKey]; ok {
		if err := strict(raw, &c.Process); err != nil {
			return nil, fmt.Errorf("read configuration: process: %w", err)
		}
	}
	return c, nil
}
