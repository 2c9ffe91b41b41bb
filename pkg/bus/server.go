package bus

import (
	"errors"
	"fmt"
	"net"
	"net/url"
	"strconv"

	"github.com/nats-io/nats-server/v2/server"
	"github.com/nats-io/nats.go"
	"github.com/nats-io/nkeys"
)

// Server is the embedded NATS server: for development, the demo, tests, and small single-node deployments. Production runs three nodes of
// their own.
type Server struct {
	s        *server.Server
	operator nkeys.KeyPair // of the user that Connect is; nil without users
}

// ServerOptions configures the embedded server.
type ServerOptions struct {
	StoreDir   string          // where streams live; required
	Listen     string          // "" = in-process only; "127.0.0.1:0" to be reachable
	SyncAlways bool            // sync every write: survives power loss, at one fsync per message
	Cluster    *ClusterOptions // tests: three nodes
	Users      *Users          // whom it takes; nil = everybody, for everything
}

// ClusterOptions makes the server one node of a cluster.
type ClusterOptions struct {
	Name       string   // the same on all nodes
	ServerName string   // unique and stable
	Listen     string   // for routes
	Routes     []string // "nats://host:port" of all nodes
}

// StartServer starts an embedded server and waits until it takes connections. It logs nothing and handles no signals.
func StartServer(o ServerOptions) (*Server, error) {
	opts, err := o.server()
	if err != nil {
		return nil, err
	}
	var operator nkeys.KeyPair
	if o.Users != nil {
		if operator, err = nkeys.CreateUser(); err != nil {
			return nil, fmt.Errorf("start bus server: %w", err)
		}
		public, err := operator.PublicKey()
		if err != nil {
			return nil, fmt.Errorf("start bus server: %w", err)
		}
		opts.Nkeys = append(opts.Nkeys, &server.NkeyUser{Nkey: public})
	}
	s, err := server.NewServer(opts)
	if err != nil {
		return nil, fmt.Errorf("start bus server: %w", err)
	}
	go s.Start()
	if !s.ReadyForConnections(serverReady) {
		s.Shutdown()
		return nil, errors.New("bus: the embedded server did not become ready; is its store directory writable and its port free?")
	}
	return &Server{s: s, operator: operator}, nil
}

// Connect is a connection that may do everything, as whoever runs the server can make one: for the recorder of what passes, and for tests.
func (s *Server) Connect(name string) (*nats.Conn, error) {
	opts := []nats.Option{nats.InProcessServer(s.s), nats.Name(name)}
	if s.operator != nil {
		public, err := s.operator.PublicKey()
		if err != nil {
			return nil, fmt.Errorf("connect to the embedded server: %w", err)
		}
		opts = append(opts, nats.Nkey(public, s.operator.Sign))
	}
	nc, err := nats.Connect("", opts...)
	if err != nil {
		return nil, fmt.Errorf("connect to the embedded server: %w", err)
	}
	return nc, nil
}

// server translates to the server's own options.
func (o ServerOptions) server() (*server.Options, error) {
	if o.StoreDir == "" {
		return nil, errors.New("bus: the embedded server needs a store directory")
	}
	opts := &server.Options{
		JetStream: true, StoreDir: o.StoreDir, SyncAlways: o.SyncAlways, JetStreamMaxStore: storeReservation,
		MaxPayload: maxPayload, NoLog: true, NoSigs: true, DontListen: o.Listen == "",
	}
	var err error
	if o.Users != nil {
		if opts.Nkeys, err = o.Users.nkeyUsers(); err != nil {
			return nil, err
		}
	}
	if o.Listen != "" {
		if opts.Host, opts.Port, err = hostPort(o.Listen); err != nil {
			return nil, err
		}
	}
	if c := o.Cluster; c != nil {
		opts.ServerName, opts.Cluster.Name = c.ServerName, c.Name
		if opts.Cluster.Host, opts.Cluster.Port, err = hostPort(c.Listen); err != nil {
			return nil, err
		}
		for _, r := range c.Routes {
			u, err := url.Parse(r)
			if err != nil {
				return nil, fmt.Errorf("bus: route: %w", err)
			}
			opts.Routes = append(opts.Routes, u)
		}
	}
	return opts, nil
}

// hostPort splits an address; port 0 becomes the server's "any port".
func hostPort(addr string) (string, int, error) {
	host, p, err := net.SplitHostPort(addr)
	if err != nil {
		return "", 0, fmt.Errorf("bus: listen address: %w", err)
	}
	port, err := strconv.ParseUint(p, 10, 16)
	if err != nil {
		return "", 0, fmt.Errorf("bus: listen port: %w", err)
	}
	if port == 0 {
		return host, server.RANDOM_PORT, nil
	}
	return host, int(port), nil
}

// URL is where the server listens; "" if it does not.
func (s *Server) URL() string {
	if s.s.Addr() == nil {
		return ""
	}
	return s.s.ClientURL()
}

// InProcess is for Options.InProcess: connections that never touch the network.
func (s *Server) InProcess() nats.InProcessConnProvider { return s.s }

// Shutdown stops the server and waits until its store is written.
func (s *Server) Shutdown() {
	s.s.Shutdown()
	s.s.WaitForShutdown()
}
