package mls

import (
	"maps"
	"slices"
)

// leafSummary says of all leaves of a tree together what would else take a look at each of them. Like a nodeArray it is persistent.
type leafSummary struct {
	s *summary
	ownership
}

type summary struct {
	owner *owner
	// credentials counts the leaves by credential type. There are few types: every member supports each that is in use.
	credentials map[CredentialType]int
	// proposals are types that every leaf lists. There may be others, once a leaf that did not list them has gone.
	proposals []ProposalType
	size      int // of the leaves' encodings
}

// snapshot returns a summary that can be changed without changing l.
func (l *leafSummary) snapshot() leafSummary {
	l.share()
	return *l
}

// own makes a shared summary one of l's own.
func (l *leafSummary) own() *summary {
	if o := l.current(); l.s == nil {
		l.s = &summary{owner: o, credentials: map[CredentialType]int{}}
	} else if l.s.owner != o {
		l.s = &summary{owner: o, credentials: maps.Clone(l.s.credentials), proposals: slices.Clone(l.s.proposals), size: l.s.size}
	}
	return l.s
}

// replace takes a change of one leaf into account; either is nil for a blank one.
func (l *leafSummary) replace(old, leaf *LeafNode) {
	s := l.own()
	if old != nil {
		s.size -= len(old.encoded())
		if s.credentials[old.credential.Type]--; s.credentials[old.credential.Type] == 0 {
			delete(s.credentials, old.credential.Type)
		}
	}
	if leaf == nil {
		return
	}
	s.size += len(leaf.encoded())
	if len(s.credentials) == 0 {
		s.proposals = slices.Clone(leaf.capabilities.Proposals)
	}
	s.credentials[leaf.credential.Type]++
	s.proposals = slices.DeleteFunc(s.proposals, func(t ProposalType) bool { return !leaf.capabilities.hasProposal(t) })
}
