package telemetry_test

import (
	"bytes"
	"errors"
	"log/slog"
	"slices"
	"strings"
	"testing"

	"go.opentelemetry.io/otel/attribute"
	"go.opentelemetry.io/otel/trace"

	"mimimi.example/pkg/telemetry"
	"mimimi.example/pkg/telemetry/telemetrytest"
)

// TestOnlyMessagesLeave: a record is written whole where it was written before, and leaves as its message alone.
func TestOnlyMessagesLeave(t *testing.T) {
	r := telemetrytest.NewReceiver(t)
	tel := exporting(t, r)
	var written bytes.Buffer
	l := tel.Log(slog.New(slog.NewJSONHandler(&written, &slog.HandlerOptions{Level: slog.LevelDebug}))).With(slog.String("user", "canary")).WithGroup("canary")
	ctx, span := tel.Traces().Tracer("x").Start(t.Context(), "serve rpc.hub", trace.WithAttributes(attribute.String("mimimi.zone", "group")))
	l.InfoContext(ctx, "started", slog.String("version", "canary"))
	l.WarnContext(ctx, "bus connection lost", slog.Any("error", errors.New("canary")))
	l.ErrorContext(ctx, "a handler panicked", slog.Int("canary", 4711))
	l.InfoContext(ctx, "canary")
	l.DebugContext(ctx, "stopping")
	span.End()
	if err := tel.Shutdown(t.Context()); err != nil {
		t.Fatal(err)
	}
	r.Check(t)
	if got, want := r.Logs(), []string{"hub INFO started", "hub WARN bus connection lost", "hub ERROR a handler panicked"}; !slices.Equal(got, want) {
		t.Errorf("%q, want %q", got, want)
	}
	for _, b := range r.Bodies() {
		if bytes.Contains(b, []byte("canary")) {
			t.Errorf("a canary left: %q", b)
		}
	}
	if tel.Dropped() != 1 || strings.Count(written.String(), "\n") != 5 {
		t.Errorf("%d dropped, want the unknown message; written:\n%s", tel.Dropped(), written.String())
	}
}

// TestLogWithoutExport: the logger stays what it was.
func TestLogWithoutExport(t *testing.T) {
	l := slog.New(slog.DiscardHandler)
	if must(telemetry.New(telemetry.Options{})).Log(l) != l || (*telemetry.Telemetry)(nil).Log(l) != l {
		t.Error("another logger")
	}
}
