package provider

import (
	"context"
	"fmt"

	mimimiv1 "mimimi.example/api/mimimi/v1"
	"mimimi.example/pkg/bus"
	"mimimi.example/pkg/problem"
)

// federationSide serves FederationService to other domains' providers, over mutual TLS.
type federationSide struct {
	bus       *bus.Bus
	deliverer *deliverer
	relays    *domainSlots
	notifies  *domainSlots
}

// errDeliveries is a Notify with too many deliveries, or none.
var errDeliveries = problem.New(problem.Invalid, fmt.Sprintf("a call hands over 1 to %d deliveries", maxDeliveries))

// Notify stores deliveries for this domain's clients. All are checked before any is stored; success means that all are stored, as
// deliverer.deliver has it. A repeat
// writes nothing twice that still waits.
func (f *federationSide) Notify(ctx context.Context, req *mimimiv1.NotifyRequest) (*mimimiv1.NotifyResponse, error) {
	if err := f.notify(ctx, peerDomain(ctx), req.GetDeliveries()); err != nil {
		return nil, problem.Connect(err)
	}
	return &mimimiv1.NotifyResponse{}, nil
}

func (f *federationSide) notify(ctx context.Context, source string, deliveries []*mimimiv1.OutboundDelivery) error {
	if len(deliveries) == 0 || len(deliveries) > maxDeliveries {
		return errDeliveries
	}
	for _, o := range deliveries {
		if err := checkDelivery(o, source); err != nil {
			return err
		}
	}
	if err := f.notifies.enter(source); err != nil {
		return err
	}
	defer f.notifies.leave(source)
	ctx, cancel := context.WithTimeout(ctx, notifyTimeout)
	defer cancel()
	for _, o := range deliveries {
		if err := f.deliverer.deliver(ctx, source, o); err != nil {
			return err
		}
	}
	return nil
}

// Relay hands another domain's encapsulated request to a service of this one.
func (f *federationSide) Relay(ctx context.Context, req *mimimiv1.FederationRelayRequest) (*mimimiv1.FederationRelayResponse, error) {
	answer, err := f.relay(ctx, peerDomain(ctx), req)
	if err != nil {
		return nil, problem.Connect(err)
	}
	return &mimimiv1.FederationRelayResponse{EncapsulatedResponse: answer}, nil
}

func (f *federationSide) relay(ctx context.Context, source string, req *mimimiv1.FederationRelayRequest) ([]byte, error) {
	if err := checkRelay(req.GetService(), req.GetEncapsulatedRequest()); err != nil {
		return nil, err
	}
	if err := f.relays.enter(source); err != nil {
		return nil, err
	}
	defer f.relays.leave(source)
	ctx, cancel := context.WithTimeout(ctx, relayTimeout)
	defer cancel()
	return f.bus.Call(ctx, req.GetService(), req.GetEncapsulatedRequest())
}
