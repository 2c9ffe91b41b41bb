package telemetry

// Allow puts values of kind on the metrics' allow-list, for tests that need many of them, until the returned function is called.
func Allow(values ...string) (restore func()) {
	before := metricKeys["kind"]
	metricKeys["kind"] = union(before, of(values...))
	return func() { metricKeys["kind"] = before }
}
