package bustest

import (
	"bufio"
	"bytes"
	"errors"
	"io"
	"net"
	"strconv"
	"strings"
	"sync"
	"testing"
)

// Gate stands between a process and the one node of a Domain that StartReachable made. It counts what the process sends, and can hold it back from an exact
// write on: the process is then between two writes, where it can be killed.
type Gate struct {
	t      testing.TB
	node   string
	listen net.Listener
	all    sync.WaitGroup

	mu      sync.Mutex
	conns   []net.Conn     // guarded by mu: to be closed
	closing bool           // guarded by mu
	sent    map[string]int // guarded by mu: messages by the first part of their subject
	first   string         // guarded by mu: HoldAfter's; "" if nothing is to be held back
	begun   bool           // guarded by mu: a message to first was sent
	more    int            // guarded by mu: writes that may pass after that
	held    chan struct{}  // guarded by mu: closed when nothing passes any more
}

// Gate opens a gate, which closes with the test.
func (d *Domain) Gate() *Gate {
	d.t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		d.t.Fatal(err)
	}
	g := &Gate{t: d.t, node: strings.TrimPrefix(d.urls, "nats://"), listen: l, sent: make(map[string]int)}
	g.all.Go(g.accept)
	d.t.Cleanup(g.close)
	return g
}

// URL is the node's, through the gate.
func (g *Gate) URL() string { return "nats://" + g.listen.Addr().String() }

// HoldAfter holds back everything that the process sends once it has sent a message to a subject whose first part is first, and then more writes, whatever
// their subject. The channel is closed when the last of these has passed; what comes back from the node passes still.
func (g *Gate) HoldAfter(first string, more int) <-chan struct{} {
	g.mu.Lock()
	defer g.mu.Unlock()
	g.first, g.more, g.held = first, more, make(chan struct{})
	return g.held
}

// Sent is how many messages the process has sent to subjects whose first part is first.
func (g *Gate) Sent(first string) int {
	g.mu.Lock()
	defer g.mu.Unlock()
	return g.sent[first]
}

func (g *Gate) close() {
	_ = g.listen.Close() // nothing is lost by it
	g.mu.Lock()
	g.closing = true
	for _, c := range g.conns {
		_ = c.Close()
	}
	g.mu.Unlock()
	g.all.Wait()
}

// keep notes a connection that close closes.
func (g *Gate) keep(c net.Conn) {
	g.mu.Lock()
	defer g.mu.Unlock()
	if g.conns = append(g.conns, c); g.closing {
		_ = c.Close()
	}
}

func (g *Gate) accept() {
	for {
		process, err := g.listen.Accept()
		if err != nil {
			return // closed
		}
		g.keep(process)
		node, err := net.Dial("tcp", g.node)
		if err != nil {
			_ = process.Close()
			continue
		}
		g.keep(node)
		g.all.Go(func() {
			_, _ = io.Copy(process, node) // ends with either side
			_ = process.Close()
		})
		g.all.Go(func() {
			if err := g.forward(node, process); err != nil {
				g.t.Errorf("the gate does not understand what the process sends: %v", err)
			}
			_ = node.Close()
		})
	}
}

// forward takes what a process sends apart into the client protocol's operations. Its error says that it is not that; a connection that ends is none.
func (g *Gate) forward(node io.Writer, process io.Reader) error {
	r := bufio.NewReader(process)
	for {
		line, err := r.ReadBytes('\n')
		if err != nil {
			return nil
		}
		op, subject := line, ""
		if f := bytes.Fields(line); len(f) > 2 && (string(f[0]) == "PUB" || string(f[0]) == "HPUB") {
			size, err := strconv.Atoi(string(f[len(f)-1]))
			if err != nil || size < 0 {
				return errors.New("a message without a size")
			}
			body := make([]byte, size+len("\r\n"))
			if _, err := io.ReadFull(r, body); err != nil {
				return nil
			}
			op, subject = append(line, body...), string(f[1])
		}
		if g.holds() {
			_, _ = io.Copy(io.Discard, r) // until the process is killed, or the gate closed
			return nil
		}
		if _, err := node.Write(op); err != nil {
			return nil
		}
		if subject != "" {
			g.passed(subject)
		}
	}
}

// holds says whether everything is held back.
func (g *Gate) holds() bool {
	g.mu.Lock()
	defer g.mu.Unlock()
	return g.begun && g.more == 0
}

// passed counts a message that has gone to the node.
func (g *Gate) passed(subject string) {
	first, _, _ := strings.Cut(subject, ".")
	g.mu.Lock()
	defer g.mu.Unlock()
	g.sent[first]++
	switch {
	case g.first == "" || g.begun && g.more == 0:
		return
	case !g.begun && first == g.first:
		g.begun = true
	case g.begun && isWrite(subject):
		g.more--
	}
	if g.begun && g.more == 0 {
		close(g.held)
	}
}

// isWrite says whether a message to a subject changes a stream: no question to JetStream, no answer, hint or call.
func isWrite(subject string) bool {
	for _, p := range []string{"$JS.API.STREAM.MSG.DELETE.", "$JS.API.STREAM.PURGE."} {
		if strings.HasPrefix(subject, p) {
			return true
		}
	}
	for _, p := range []string{"$", "_INBOX", "hint.", "rpc."} {
		if strings.HasPrefix(subject, p) {
			return false
		}
	}
	return true
}
