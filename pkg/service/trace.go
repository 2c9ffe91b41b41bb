package service

import (
	"net/http"
	"strings"

	"mimimi.example/pkg/bus"
	"mimimi.example/pkg/telemetry"
)

// zones are the trace zones of the services' calls, by the first part of a procedure's name or by all of it.
var zones = map[string]bus.Zone{
	"mimimi.v1.AccountService":           bus.ZoneAccount,
	"mimimi.v1.InboxService":             bus.ZoneAccount,
	"mimimi.v1.RelayService":             bus.ZoneRelay,
	"mimimi.v1.FederationService":        bus.ZoneRelay,
	"mimimi.v1.FederationService/Notify": bus.ZoneQueue,
	"mimimi.v1.QueueService":             bus.ZoneQueue,
	"mimimi.v1.HubService":               bus.ZoneGroup,
	"mimimi.v1.KeyPackageService":        bus.ZoneKeyPackage,
}

// zoneOf returns a procedure's zone, "" for none.
func zoneOf(procedure string) bus.Zone {
	if z, ok := zones[procedure]; ok {
		return z
	}
	service, _, _ := strings.Cut(procedure, "/")
	return zones[service]
}

// observed measures each request, and handles it within a trace of its procedure's zone. The trace begins there, unless a call on the bus has begun it: no header of a request
// is looked at, since a client or another domain must not choose which traces hang together. What is no known procedure is neither measured nor traced.
func observed(b *bus.Bus, m *metrics, h http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		name, ok := telemetry.Procedure(r.URL.Path)
		if !ok {
			h.ServeHTTP(w, r)
			return
		}
		measured := m.begin(r.Context(), name)
		ctx, traced := b.Enter(r.Context(), zoneOf(name), name)
		answer := &status{ResponseWriter: w, code: http.StatusInternalServerError} // which a panic's is
		defer func() {
			traced(answer.code)
			measured(answer.code)
		}()
		if ctx != r.Context() {
			r = r.WithContext(ctx)
		}
		h.ServeHTTP(answer, r)
		answer.set(http.StatusOK)
	})
}

// status remembers the status of a response.
type status struct {
	http.ResponseWriter
	code int
	sent bool
}

func (s *status) set(code int) {
	if !s.sent {
		s.code, s.sent = code, true
	}
}

// WriteHeader is http.ResponseWriter's.
func (s *status) WriteHeader(code int) {
	if code >= http.StatusOK {
		s.set(code)
	}
	s.ResponseWriter.WriteHeader(code)
}

// Write is http.ResponseWriter's.
func (s *status) Write(p []byte) (int, error) {
	s.set(http.StatusOK)
	return s.ResponseWriter.Write(p)
}

// Flush is http.Flusher's, which Connect asks for by type.
func (s *status) Flush() {
	s.set(http.StatusOK)
	_ = http.NewResponseController(s.ResponseWriter).Flush() // a writer that cannot flush has nothing to flush
}

// Unwrap is for http.ResponseController.
func (s *status) Unwrap() http.ResponseWriter { return s.ResponseWriter }
