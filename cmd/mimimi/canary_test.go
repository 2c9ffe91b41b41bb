package main

import (
	"bytes"
	"context"
	"encoding/json"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"mimimi.example/cmd/mimimi/domain"
	"mimimi.example/pkg/telemetry"
	"mimimi.example/pkg/telemetry/telemetrytest"
)

// TestCanary: two test users exchange messages, again after a restart on the same folder; what does not arrive is counted as that.
func TestCanary(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	d, err := domain.Start(t.Context(), domain.Options{Dir: filepath.Join(dir, "domain"), Domain: ownDomain})
	if err != nil {
		t.Fatal(err)
	}
	stopped := false
	stop := func() {
		ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
		defer cancel()
		if !stopped {
			stopped = true
			if err := d.Stop(ctx); err != nil {
				t.Errorf("stop: %v", err)
			}
		}
	}
	t.Cleanup(stop)
	c := &canaryCommand{Dir: filepath.Join(dir, "canary"), Provider: d.ClientFile(), Name: "canary", Every: 10 * time.Millisecond, Timeout: time.Minute, Rounds: 3, Listen: "127.0.0.1:0", JSON: true}
	for range 2 {
		var out bytes.Buffer
		if err := c.Run(t.Context(), &out); err != nil {
			t.Fatalf("%v: %s", err, out.String())
		}
		got := make(map[string]int)
		if err := json.Unmarshal(out.Bytes(), &got); err != nil || got["delivered"] != 3 || got["failed"] != 0 {
			t.Errorf("%v, %v", got, err)
		}
	}

	tel := telemetrytest.New(t, telemetry.Options{})
	k, err := c.start(t.Context(), tel)
	if err != nil {
		t.Fatal(err)
	}
	if ok, err := k.round(t.Context(), 0, time.Minute); !ok || err != nil {
		t.Errorf("%v, %v", ok, err)
	}
	stop()
	if ok, err := k.round(t.Context(), 1, time.Millisecond); ok || err != nil {
		t.Errorf("nobody is there: %v, %v", ok, err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if ok, err := k.round(ctx, 2, time.Minute); ok || err != nil {
		t.Errorf("asked to stop: %v, %v", ok, err)
	}
	for series, want := range map[string]float64{`canary_messages_total{outcome="delivered"}`: 1, `canary_messages_total{outcome="failed"}`: 1, `canary_delivery_seconds_count`: 1} {
		if got := telemetrytest.Value(t, tel, series); got != want {
			t.Errorf("%s: %v, want %v", series, got, want)
		}
	}
	if err := k.close(); err != nil {
		t.Error(err)
	}
}

func TestCanaryFlags(t *testing.T) {
	var out bytes.Buffer
	if code := run(t.Context(), []string{"canary", "-dir", t.TempDir(), "-provider", "canary_test.go", "-every", "1ms"}, &out, &out); code != 2 || !strings.Contains(out.String(), "--every must be") {
		t.Errorf("exit code %d: %s", code, out.String())
	}
	for name, c := range map[string]canaryCommand{
		"too often": {Every: time.Millisecond, Timeout: time.Minute}, "no patience": {Every: time.Minute}, "rounds": {Every: time.Minute, Timeout: time.Minute, Rounds: -1},
	} {
		if c.Validate() == nil {
			t.Errorf("%s: accepted", name)
		}
	}
	if err := (&canaryCommand{Every: time.Minute, Timeout: 30 * time.Second}).Validate(); err != nil {
		t.Error(err)
	}
}
