package telemetry

// Allow puts values of kind on the metrics' allow-list, for tests that need many of them, until the returned function is called.
func Allow(values ...string) (restore func()) {
	before := metricKeys["kind"]
	metricKeys["kind"] = union(before, of(values...))
	return func() { metricKeys["kind"] = before }
}

// ListedSubject says whether a span may name a subject's pattern, and ListedStream whether a metric may name a kind of stream.
func ListedSubject(pattern string) bool { return templates[pattern] }
func ListedStream(kind string) bool     { return metricKeys["stream"][kind] }
