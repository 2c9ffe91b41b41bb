package telemetry

import (
	"context"
	"log/slog"
	"time"

	"go.opentelemetry.io/otel/attribute"
	"go.opentelemetry.io/otel/exporters/otlp/otlplog/otlploghttp"
	"go.opentelemetry.io/otel/log"
	sdklog "go.opentelemetry.io/otel/sdk/log"
)

// messages are the log messages that may leave over OTLP: those of a process's life and of its connections.
var messages = of("started", "stopping", "stopped", "bus connection lost", "bus connection back", "bus connection reported an asynchronous error",
	"the bus server reaches no leader: trying another one", "a handler panicked", "a handler of calls panicked",
	"peers_dir is not a usable path", "a file in peers_dir cannot be used: it must hold domain, url and ca_pem", "the keys for the tokens of the week after next could not be made yet",
	"the settings cannot be read: the last ones hold", "a peer's identity key is not the pinned one; its new key document was refused", "the handling of a recipient panicked",
	"an outbox consumer stopped; it is started again")

// pushLogs makes what sends log records.
func (t *Telemetry) pushLogs(o Options) (*sdklog.LoggerProvider, error) {
	out, err := otlploghttp.New(context.Background(), otlploghttp.WithEndpointURL(o.endpoint("logs")), otlploghttp.WithHTTPClient(o.client()), otlploghttp.WithHeaders(nil),
		otlploghttp.WithTimeout(exportTimeout), otlploghttp.WithRetry(otlploghttp.RetryConfig{}), otlploghttp.WithCompression(otlploghttp.NoCompression))
	if err != nil {
		return nil, err
	}
	return sdklog.NewLoggerProvider(sdklog.WithResource(about(o.Service)), sdklog.WithProcessor(sdklog.NewBatchProcessor(&logExporter{Exporter: out, t: t},
		sdklog.WithMaxQueueSize(maxQueuedLogs), sdklog.WithExportInterval(exportEvery), sdklog.WithExportTimeout(exportTimeout)))), nil
}

// logExporter is the one way out for log records, which logHandler has made from what may leave.
type logExporter struct {
	sdklog.Exporter
	t *Telemetry
}

// Export sends records.
func (e *logExporter) Export(ctx context.Context, records []sdklog.Record) error {
	return e.t.exported(ctx, e.Exporter.Export(ctx, records))
}

// Shutdown ends the exporter. What it could not send is lost.
func (e *logExporter) Shutdown(ctx context.Context) error {
	_ = e.Exporter.Shutdown(ctx) // an exporter that is down already, or a receiver that is
	return nil
}

// Log returns a logger that writes what l does and exports it besides, if anything is exported: a record leaves as its message, if that is on the list, its level and its
// second; without attributes and without the trace that it was written in.
func (t *Telemetry) Log(l *slog.Logger) *slog.Logger {
	if t == nil || t.logs == nil {
		return l
	}
	return slog.New(slog.NewMultiHandler(l.Handler(), &logHandler{t: t, out: t.logs.Logger("mimimi.example/pkg/telemetry")}))
}

// logHandler makes records to be exported.
type logHandler struct {
	t   *Telemetry
	out log.Logger
}

// Enabled is slog.Handler's.
func (h *logHandler) Enabled(_ context.Context, l slog.Level) bool { return l >= slog.LevelInfo }

// WithAttrs is slog.Handler's.
func (h *logHandler) WithAttrs([]slog.Attr) slog.Handler { return h }

// WithGroup is slog.Handler's.
func (h *logHandler) WithGroup(string) slog.Handler { return h }

// Handle is slog.Handler's.
func (h *logHandler) Handle(_ context.Context, r slog.Record) error {
	if !messages[r.Message] {
		h.t.dropped.Add(1)
		return nil
	}
	var out log.Record
	at := r.Time.Truncate(time.Second)
	out.SetTimestamp(at)
	out.SetObservedTimestamp(at)
	out.SetSeverity(severity(r.Level))
	out.SetSeverityText(r.Level.String())
	out.SetBody(attribute.StringValue(r.Message))
	h.out.Emit(context.Background(), out) // the caller's context would add its trace
	return nil
}

func severity(l slog.Level) log.Severity {
	switch {
	case l >= slog.LevelError:
		return log.SeverityError
	case l >= slog.LevelWarn:
		return log.SeverityWarn
	}
	return log.SeverityInfo
}
