package domain

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"net/http"
	"sync"

	"mimimi.example/pkg/telemetry"
)

// meter is one service replica's measurements.
type meter struct {
	service string
	*telemetry.Telemetry
}

// newMeter makes a replica's measurements and keeps them for Metrics.
func (d *Domain) newMeter(service string) (*telemetry.Telemetry, error) {
	o := telemetry.Options{Service: service, OTLP: d.o.OTLP, Sample: 1}
	if d.o.Exports != nil {
		o.Tap = d.o.Exports(service)
	}
	t, err := telemetry.New(o)
	if err != nil {
		return nil, err
	}
	d.meters = append(d.meters, meter{service, t})
	return t, nil
}

// closeMeters sends what waits to be sent.
func (d *Domain) closeMeters(ctx context.Context) error {
	errs := make([]error, len(d.meters))
	var all sync.WaitGroup
	for i, m := range d.meters {
		all.Go(func() { errs[i] = m.Shutdown(ctx) })
	}
	all.Wait()
	return errors.Join(errs...)
}

// NotAllowed is how many attributes and span names of the domain's services were on no allow-list and did not leave: 0, unless a call site is wrong.
func (d *Domain) NotAllowed() (n int64) {
	for _, m := range d.meters {
		n += m.Dropped()
	}
	return n
}

// Instruments are what each service measures.
func (d *Domain) Instruments() map[string][]telemetry.Instrument {
	all := make(map[string][]telemetry.Instrument)
	for _, m := range d.meters {
		all[m.service] = m.Instruments()
	}
	return all
}

// Metrics hands what each replica's /metrics would answer now to f.
func (d *Domain) Metrics(f func(service string, scrape []byte)) error {
	var errs []error
	for _, m := range d.meters {
		r, err := http.NewRequestWithContext(context.Background(), http.MethodGet, "/metrics", nil)
		if err != nil {
			return err
		}
		var page response
		m.Handler().ServeHTTP(&page, r)
		if page.code != http.StatusOK && page.code != 0 { // 0: nothing was written, since nothing was measured
			errs = append(errs, fmt.Errorf("the metrics of %s cannot be read: %d", m.service, page.code))
			continue
		}
		f(m.service, page.body.Bytes())
	}
	return errors.Join(errs...)
}

// response keeps what a handler answers.
type response struct {
	header http.Header
	body   bytes.Buffer
	code   int
}

// Header implements http.ResponseWriter.
func (r *response) Header() http.Header {
	if r.header == nil {
		r.header = make(http.Header)
	}
	return r.header
}

// WriteHeader implements http.ResponseWriter.
func (r *response) WriteHeader(code int) {
	if r.code == 0 {
		r.code = code
	}
}

// Write implements http.ResponseWriter.
func (r *response) Write(b []byte) (int, error) {
	r.WriteHeader(http.StatusOK)
	return r.body.Write(b)
}
