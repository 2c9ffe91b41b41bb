package client

import (
	"time"

	mimimiv1 "mimimi.example/api/mimimi/v1"
	"mimimi.example/pkg/mimimi"
)

// leafProof proves a read, or the management of invitations, by the own leaf of the group's present epoch.
func (c *Client) leafProof(g *group, operation string, body []byte) *mimimiv1.Proof {
	own := g.mls.OwnIndex()
	p := c.packageProof(g.id, g.own, g.mls.Epoch(), operation, body)
	p.LeafKey, p.Leaf = nil, &own
	return p
}

// memberProof proves a read by the key that all members of the epoch have, so that the hub does not learn who reads: reading the log right after a
// message was refused would name its sender (§9). A hub that has forgotten the epoch wants leafProof.
func (c *Client) memberProof(g *group, operation string) (*mimimiv1.Proof, error) {
	sender, err := mimimi.NewEpochSender(g.mls)
	if err != nil {
		return nil, err
	}
	epoch := g.mls.Epoch()
	return &mimimiv1.Proof{
		Epoch: epoch,
		Signed: c.signed(newRequestID(), func(request [16]byte, minute time.Time) []byte {
			return sender.SignRead(&mimimi.ReadRequest{Operation: operation, Group: g.id, Epoch: epoch, RequestID: request, Minute: minute})
		}),
	}, nil
}

// packageProof proves a read by the key of a KeyPackage's leaf, whose index is not known yet.
func (c *Client) packageProof(id mimimi.GroupID, own *ownPackage, epoch uint64, operation string, body []byte) *mimimiv1.Proof {
	return &mimimiv1.Proof{
		Epoch:   epoch,
		LeafKey: own.secrets.SignatureKey.Public(),
		Signed: c.signed(newRequestID(), func(request [16]byte, minute time.Time) []byte {
			return mimimi.SignReadAsLeaf(own.secrets.SignatureKey, &mimimi.ReadRequest{Operation: operation, Group: id, Epoch: epoch,
				RequestID: request, Minute: minute, Body: body})
		}),
	}
}
