package bus

import (
	"context"
	"encoding/json"
	"errors"
	"slices"
	"strings"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"

	"mimimi.example/pkg/problem"
)

// JetStream's error codes that callers can act on; the rest are our fault or the server's.
const (
	codeWrongLast         = 10071 // compare-and-swap lost
	codeWrongLastInFlight = 10164 // the same, on a replicated stream, while another write is in flight
	codeTooLarge          = 10054
	codeNoMessage         = 10037
	codeNoSequence        = 10043
	codeDeleteFailed      = 10057 // replicated streams: the sequence was already gone when the delete was applied
	codeStoreFailed       = 10077
	codeNoStream          = 10059
	codeNoConsumer        = 10014
	codeNoLeader          = 10008 // the cluster has no leader, or has lost its quorum
	codeNotLeader         = 10009
	codeInFlight          = 10158 // replicated streams: a message with the same id is being stored
)

// apiError is JetStream's error, as the server sends it.
type apiError struct {
	Code        int    `json:"code"`
	ErrCode     int    `json:"err_code"`
	Description string `json:"description"`
}

// problemOf turns JetStream's error into ours. The description stays private: it may name a subject or a sequence.
func (e *apiError) problemOf() error {
	cause := &jetstream.APIError{Code: e.Code, ErrorCode: jetstream.ErrorCode(e.ErrCode), Description: e.Description}
	switch e.ErrCode {
	case codeWrongLast, codeWrongLastInFlight:
		return problem.Wrap(problem.Stale, "something else was written first: read again, then decide", cause)
	case codeTooLarge:
		return problem.Wrap(problem.Invalid, "the message is larger than its stream allows", cause)
	case codeNoMessage, codeNoSequence:
		return problem.Wrap(problem.NotFound, "there is no such message", cause)
	case codeNoStream, codeNoConsumer:
		return problem.Wrap(problem.Internal, "a stream or consumer is missing: initialise the deployment first", cause)
	case codeStoreFailed:
		if strings.HasPrefix(e.Description, "maximum ") {
			return problem.Wrap(problem.Limited, "the stream or subject is full: later, or less", cause)
		}
	}
	if e.Code == 503 || e.Code == 500 || e.ErrCode == codeInFlight {
		return problem.Wrap(problem.Unavailable, "the bus could not do it: try again", cause)
	}
	return problem.Wrap(problem.Internal, "the bus refused the request", cause)
}

// problemOf turns an error of the client library into ours.
func problemOf(err error) error {
	var api *jetstream.APIError
	switch {
	case err == nil:
		return nil
	case errors.As(err, &api):
		return (&apiError{Code: api.Code, ErrCode: int(api.ErrorCode), Description: api.Description}).problemOf()
	case errors.Is(err, nats.ErrMaxPayload):
		return problem.Wrap(problem.Invalid, "the message is larger than the bus allows", err)
	case errors.Is(err, context.Canceled):
		return problem.Wrap(problem.Unavailable, "the caller gave up; the outcome is unknown", err)
	default: // timeouts, no responders, no leader, connection lost: the request may have been applied all the same
		return problem.Wrap(problem.Unavailable, "the bus did not answer; the outcome is unknown", err)
	}
}

// bounded gives ctx a deadline if it has none.
func bounded(ctx context.Context) (context.Context, context.CancelFunc) {
	if _, ok := ctx.Deadline(); ok {
		return ctx, func() {}
	}
	return context.WithTimeout(ctx, requestTimeout)
}

// api sends one request to JetStream's API and decodes the answer into out, which may be nil. It is for what may be done twice: what is not answered is asked again until ctx ends.
func (b *Bus) api(ctx context.Context, subject string, request, out any) error {
	return b.request(ctx, subject, request, out, true)
}

// apiOnce is api for what must be done once: if the answer is lost, the outcome is unknown.
func (b *Bus) apiOnce(ctx context.Context, subject string, request, out any) error {
	return b.request(ctx, subject, request, out, false)
}

func (b *Bus) request(ctx context.Context, subject string, request, out any, again bool) error {
	body, err := json.Marshal(request)
	if err != nil {
		return problem.Wrap(problem.Internal, "a request could not be encoded", err)
	}
	ctx, cancel := bounded(ctx)
	defer cancel()
	reply, err := b.ask(ctx, &nats.Msg{Subject: "$JS.API." + subject, Data: body}, b.leader, again)
	if err != nil {
		return problemOf(err)
	}
	var head struct {
		Error *apiError `json:"error"`
	}
	if err := json.Unmarshal(reply.Data, &head); err != nil {
		return problem.Wrap(problem.Internal, "the bus answered in an unknown form", err)
	}
	if head.Error != nil {
		return head.Error.problemOf()
	}
	if out == nil {
		return nil
	}
	if err := json.Unmarshal(reply.Data, out); err != nil {
		return problem.Wrap(problem.Internal, "the bus answered in an unknown form", err)
	}
	return nil
}

// deleteLost says whether a delete failed because another one came first. The server has one code for every failed delete; what went wrong is in the
// text, whose three forms here are those of its store.
func deleteLost(err error) bool {
	api, ok := errors.AsType[*jetstream.APIError](err)
	if !ok {
		return false
	}
	if api.ErrorCode == codeNoSequence {
		return true
	}
	gone := []string{"no message found", "stream store EOF", "deleted message"}
	return api.ErrorCode == codeDeleteFailed && slices.Contains(gone, api.Description)
}
