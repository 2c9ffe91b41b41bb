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
