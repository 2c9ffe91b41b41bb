package service

import (
	"bytes"
	"io"
	"net/http"
	"strconv"
	"sync"
)

// Limit bounds the body of every request: a handler that reads beyond maxBody gets *http.MaxBytesError, which Connect turns into resource_exhausted, and
// the connection is closed.
func Limit(h http.Handler, maxBody int64) http.Handler { return http.MaxBytesHandler(h, maxBody) }

// Handler is what a service serves for a kind of request: h measured and within its zone's trace, behind Front and in view of Tap if they are set.
func (e *Env) Handler(kind string, h http.Handler) http.Handler {
	h = observed(e.Bus, newMetrics(e.Telemetry), h)
	if e.Front != nil {
		h = e.Front(kind, h)
	}
	return TapHandler(e.Tap, kind, h)
}

// TapHandler wraps an http.Handler so that request line, headers, remote address and bodies of request and response go to the tap: the head of a request
// as one record before it is handled, each body when it is complete (a streamed response at every flush), the head of the response as it is written. A nil tap changes
// nothing. Streaming works as without it. With a tap, no compression is offered to the handler, or the recorder would search through compressed bodies.
func TapHandler(tap func(kind string, parts ...[]byte), kind string, h http.Handler) http.Handler {
	if tap == nil {
		return h
	}
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		tap(kind, []byte(r.Method+" "+r.RequestURI+" "+r.URL.String()+" "+r.Host), []byte(r.RemoteAddr), headerBytes(r.Header))
		in := &tappedBody{ReadCloser: r.Body, out: pieces{tap: tap, kind: kind}}
		r = r.Clone(r.Context()) // the caller's request stays as it is
		for _, name := range []string{"Accept-Encoding", "Connect-Accept-Encoding", "Grpc-Accept-Encoding"} {
			r.Header.Del(name)
		}
		if r.Body != nil {
			r.Body = in
		}
		tw := &tappedWriter{ResponseWriter: w, tap: tap, kind: kind, out: pieces{tap: tap, kind: kind}}
		defer func() { // also when the handler panics: what was seen was seen
			in.out.flush()
			tw.head(http.StatusOK)
			tw.out.flush()
		}()
		h.ServeHTTP(tw, r)
	})
}

func headerBytes(h http.Header) []byte {
	var b bytes.Buffer
	_ = h.Write(&b) // a bytes.Buffer takes everything
	return b.Bytes()
}

// pieces gathers a body and gives it to the tap whole, or in parts of 16 MiB.
type pieces struct {
	tap  func(kind string, parts ...[]byte)
	kind string

	mu  sync.Mutex // HTTP/2 handlers may read and write at once
	buf []byte     // guarded by mu
}

func (p *pieces) add(b []byte) {
	p.mu.Lock()
	p.buf = append(p.buf, b...)
	full := len(p.buf) >= maxTapped
	p.mu.Unlock()
	if full {
		p.flush()
	}
}

func (p *pieces) flush() {
	p.mu.Lock()
	b := p.buf
	p.buf = nil
	p.mu.Unlock()
	if len(b) > 0 {
		p.tap(p.kind, b)
	}
}

// tappedBody is a request's body.
type tappedBody struct {
	io.ReadCloser
	out pieces
}

// Read is io.Reader's.
func (b *tappedBody) Read(p []byte) (int, error) {
	n, err := b.ReadCloser.Read(p)
	b.out.add(p[:n])
	if err != nil {
		b.out.flush()
	}
	return n, err
}

// tappedWriter is a response's writer.
type tappedWriter struct {
	http.ResponseWriter
	tap  func(kind string, parts ...[]byte)
	kind string
	once sync.Once
	out  pieces
}

func (w *tappedWriter) head(status int) {
	w.once.Do(func() { w.tap(w.kind, []byte(strconv.Itoa(status)), headerBytes(w.Header())) })
}

// WriteHeader is http.ResponseWriter's.
func (w *tappedWriter) WriteHeader(status int) {
	if status >= 200 {
		w.head(status)
	}
	w.ResponseWriter.WriteHeader(status)
}

// Write is http.ResponseWriter's.
func (w *tappedWriter) Write(p []byte) (int, error) {
	w.head(http.StatusOK)
	n, err := w.ResponseWriter.Write(p)
	w.out.add(p[:n])
	return n, err
}

// Flush is http.Flusher's, which Connect asks for by type.
func (w *tappedWriter) Flush() {
	w.head(http.StatusOK)
	w.out.flush()
	_ = http.NewResponseController(w.ResponseWriter).Flush() // a writer that cannot flush has nothing to flush
}

// Unwrap is for http.ResponseController.
func (w *tappedWriter) Unwrap() http.ResponseWriter { return w.ResponseWriter }
