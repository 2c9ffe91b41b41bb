package fault

import (
	"io"
	"net"
	"sync"
	"testing"
)

// proxy passes TCP connections on: to whichever address target names at the time, as a load balancer does, until it is cut.
type proxy struct {
	listen net.Listener
	target func() string // "": nobody, and the connection is closed
	all    sync.WaitGroup

	mu     sync.Mutex
	open   map[net.Conn]bool // guarded by mu
	cut    bool              // guarded by mu: nothing passes
	closed bool              // guarded by mu
}

// newProxy opens a proxy, which closes with the test.
func newProxy(t testing.TB, target func() string) *proxy {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	p := &proxy{listen: l, target: target, open: make(map[net.Conn]bool)}
	p.all.Go(p.accept)
	t.Cleanup(func() {
		_ = l.Close() // nothing is lost by it
		p.mu.Lock()
		p.closed = true
		p.mu.Unlock()
		p.drop()
		p.all.Wait()
	})
	return p
}

func (p *proxy) addr() string { return p.listen.Addr().String() }

// pass lets connections through, or cuts those that there are and refuses others.
func (p *proxy) pass(pass bool) {
	p.mu.Lock()
	p.cut = !pass
	p.mu.Unlock()
	if !pass {
		p.drop()
	}
}

// drop closes all connections.
func (p *proxy) drop() {
	p.mu.Lock()
	defer p.mu.Unlock()
	for c := range p.open {
		_ = c.Close() // both sides see it
	}
}

// keep notes a connection; false if it may not be.
func (p *proxy) keep(c net.Conn) bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.cut || p.closed {
		_ = c.Close() // it is refused
		return false
	}
	p.open[c] = true
	return true
}

// forget closes a connection.
func (p *proxy) forget(c net.Conn) {
	_ = c.Close() // it may be closed already
	p.mu.Lock()
	defer p.mu.Unlock()
	delete(p.open, c)
}

func (p *proxy) accept() {
	for {
		from, err := p.listen.Accept()
		if err != nil {
			return // closed
		}
		p.all.Go(func() { p.connect(from) })
	}
}

// connect joins a connection to one of its own until either ends.
func (p *proxy) connect(from net.Conn) {
	if !p.keep(from) {
		return
	}
	defer p.forget(from)
	addr := p.target()
	if addr == "" {
		return
	}
	to, err := net.Dial("tcp", addr)
	if err != nil || !p.keep(to) {
		return
	}
	defer p.forget(to)
	var back sync.WaitGroup
	back.Go(func() {
		_, _ = io.Copy(from, to) // ends with either side
		_ = from.Close()
	})
	_, _ = io.Copy(to, from) // the same
	_ = to.Close()
	back.Wait()
}
