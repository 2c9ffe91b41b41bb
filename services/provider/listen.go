package provider

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"log"
	"net"
	"net/http"
	"strings"
	"sync"
	"time"
)

// protocols are offered on every listener, HTTP/2 first.
var protocols = []string{"h2", "http/1.1"}

// serverTLS is the configuration of a client listener. No session tickets: a ticket would tie two connections to each other, and a
// client's account connection to its anonymous one if they shared keys.
func serverTLS(cert tls.Certificate) *tls.Config {
	return &tls.Config{
		Certificates:           []tls.Certificate{cert},
		MinVersion:             tls.VersionTLS13,
		NextProtos:             protocols,
		SessionTicketsDisabled: true,
	}
}

// listener is one of the three HTTPS listeners.
type listener struct {
	net.Listener
	server *http.Server
}

// listenerConfig is what the three differ in.
type listenerConfig struct {
	addr       string
	host       string // the only host name that is answered
	tls        *tls.Config
	handler    http.Handler
	maxBody    int64
	perAddress int
}

// open listens, without serving yet.
func open(c listenerConfig, m *metrics) (*listener, error) {
	l, err := net.Listen("tcp", c.addr)
	if err != nil {
		return nil, fmt.Errorf("listen: %w", err)
	}
	return &listener{
		Listener: &bounded{Listener: l, m: m, perAddress: c.perAddress, open: make(map[string]int)},
		server: &http.Server{
			Handler:           onlyHost(c.host, withDeadlines(http.MaxBytesHandler(c.handler, c.maxBody))),
			TLSConfig:         c.tls,
			ReadHeaderTimeout: readHeaderTimeout,
			ReadTimeout:       readTimeout,
			IdleTimeout:       idleTimeout,
			MaxHeaderBytes:    maxHeader,
			HTTP2:             &http.HTTP2Config{MaxConcurrentStreams: maxStreams},
			ErrorLog:          log.New(m, "", 0),
		},
	}, nil
}

// serve serves until shut down.
func (l *listener) serve() error {
	if err := l.server.ServeTLS(l.Listener, "", ""); !errors.Is(err, http.ErrServerClosed) {
		return fmt.Errorf("serve: %w", err)
	}
	return nil
}

// shutdown finishes what was accepted, until ctx is done; then it closes what is left.
func (l *listener) shutdown(ctx context.Context) error {
	if err := l.server.Shutdown(ctx); err != nil {
		return errors.Join(fmt.Errorf("shut down: %w", err), l.server.Close())
	}
	return nil
}

// onlyHost refuses requests for another host name: a client must not reach one side over a connection that it opened to the other.
func onlyHost(host string, h http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		name := r.Host
		if n, _, err := net.SplitHostPort(r.Host); err == nil {
			name = n
		}
		if !strings.EqualFold(name, host) {
			http.Error(w, "this listener has another host name", http.StatusMisdirectedRequest)
			return
		}
		h.ServeHTTP(w, r)
	})
}

// withDeadlines bounds how long an answer may take to be written: a reader that stops reading frees its handler. A hint stream has longer.
func withDeadlines(h http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		d := relayTimeout + writeTimeout
		if strings.HasSuffix(r.URL.Path, "/Watch") {
			d = watchTime + writeTimeout
		}
		if err := http.NewResponseController(w).SetWriteDeadline(time.Now().Add(d)); err != nil {
			http.Error(w, "no deadline can be set", http.StatusInternalServerError)
			return
		}
		h.ServeHTTP(w, r)
	})
}

// bounded is a net.Listener that closes connections over its bounds at once: in all, and per address. An address is held in memory
// while it has a connection open, and nowhere else.
type bounded struct {
	net.Listener
	m          *metrics
	perAddress int

	mu    sync.Mutex
	total int            // guarded by mu
	open  map[string]int // guarded by mu
}

// Accept returns the next connection that is within the bounds.
func (b *bounded) Accept() (net.Conn, error) {
	for {
		c, err := b.Listener.Accept()
		if err != nil {
			return nil, err
		}
		address, _, err := net.SplitHostPort(c.RemoteAddr().String())
		if err == nil && b.take(address) {
			b.m.Connections.Add(context.Background(), 1)
			return &boundedConn{Conn: c, release: sync.OnceFunc(func() { b.give(address) })}, nil
		}
		b.m.Turned.Add(context.Background(), 1)
		_ = c.Close() // it was refused: nothing is lost
	}
}

func (b *bounded) take(address string) bool {
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.total >= maxConnections || b.open[address] >= b.perAddress {
		return false
	}
	b.total++
	b.open[address]++
	return true
}

func (b *bounded) give(address string) {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.total--
	if b.open[address]--; b.open[address] == 0 {
		delete(b.open, address)
	}
}

type boundedConn struct {
	net.Conn
	release func()
}

// Close closes the connection and frees its place.
func (c *boundedConn) Close() error {
	defer c.release()
	return c.Conn.Close()
}
