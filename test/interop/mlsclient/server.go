package main

import (
	"context"
	"errors"
	"sync"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"mimimi.example/pkg/mls"
	"mimimi.example/test/interop/mlsclient/pb"
)

const (
	// maxThings bounds what the server remembers. The runner frees the states that a script ends with, and nothing else; of a script with 800
	// KeyPackages each is still known when the last one is used.
	maxThings = 1 << 12
	// maxPSKs bounds the PSKs of one client. A script has a handful.
	maxPSKs = 1 << 10
	// maxMessage bounds one call: the commit and the tree of a group of some thousand members.
	maxMessage = 1 << 26
)

// server is the MLSClient. It plays all its clients one after another: a runner waits for each answer anyway.
type server struct {
	pb.UnimplementedMLSClientServer
	name string

	mu     sync.Mutex
	things *things // guarded by mu
}

func newServer(name string) *server { return &server{name: name, things: newThings(maxThings)} }

// newGRPC makes the gRPC server.
func newGRPC(s *server) *grpc.Server {
	g := grpc.NewServer(grpc.MaxRecvMsgSize(maxMessage), grpc.MaxSendMsgSize(maxMessage), grpc.UnaryInterceptor(s.answer))
	pb.RegisterMLSClientServer(g, s)
	return g
}

// answer runs one call at a time, and turns what the library says into a status. A panic is a bug of ours that must not end the other clients' groups.
func (s *server) answer(ctx context.Context, rq any, info *grpc.UnaryServerInfo, handle grpc.UnaryHandler) (rs any, err error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	defer func() {
		if r := recover(); r != nil {
			rs, err = nil, status.Errorf(codes.Internal, "panic: %v", r)
		}
	}()
	rs, err = handle(ctx, rq)
	return rs, statusOf(err)
}

// statusOf says of what kind an error is. The library's texts hold no secret.
func statusOf(err error) error {
	if err == nil {
		return nil
	}
	if _, ok := status.FromError(err); ok {
		return err
	}
	code := codes.FailedPrecondition
	switch {
	case errors.Is(err, mls.ErrMalformed):
		code = codes.InvalidArgument
	case errors.Is(err, mls.ErrUnsupported):
		code = codes.Unimplemented
	case errors.Is(err, mls.ErrUnauthenticated):
		code = codes.Unauthenticated
	}
	return status.Error(code, err.Error())
}

// now is the time at which KeyPackages must be valid.
func now() time.Time { return time.Now() }

func (s *server) Name(context.Context, *pb.NameRequest) (*pb.NameResponse, error) {
	return &pb.NameResponse{Name: s.name}, nil
}

func (s *server) SupportedCiphersuites(context.Context, *pb.SupportedCiphersuitesRequest) (*pb.SupportedCiphersuitesResponse, error) {
	rs := new(pb.SupportedCiphersuitesResponse)
	for _, cs := range suites {
		rs.Ciphersuites = append(rs.Ciphersuites, uint32(cs))
	}
	return rs, nil
}

func (s *server) Free(_ context.Context, rq *pb.FreeRequest) (*pb.FreeResponse, error) {
	if !s.things.drop(rq.StateId) {
		return nil, errUnknown
	}
	return new(pb.FreeResponse), nil
}

// suites are those that the library has.
var suites = supported()

func supported() []mls.CipherSuite {
	var out []mls.CipherSuite
	for v := range 1 << 16 {
		if cs := mls.CipherSuite(v); cs.Supported() {
			out = append(out, cs)
		}
	}
	return out
}

// suiteOf checks a suite from a request.
func suiteOf(v uint32) (mls.CipherSuite, error) {
	cs := mls.CipherSuite(v)
	switch {
	case uint32(cs) != v:
		return 0, status.Error(codes.InvalidArgument, "a cipher suite is a number of 16 bits")
	case !cs.Supported():
		return 0, mls.ErrUnsupported
	}
	return cs, nil
}
