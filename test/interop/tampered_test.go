package interop

import (
	"bytes"
	"fmt"
	"testing"
)

// tampered returns copies of a message, each with one bit turned, all over it.
func tampered(msg []byte) [][]byte {
	const copies = 16
	var out [][]byte
	for i := range copies {
		bad := bytes.Clone(msg)
		bad[len(bad)*i/copies+len(bad)/(2*copies)] ^= 1 << (i % 8)
		out = append(out, bad)
	}
	return out
}

// refuse lets all members but its maker refuse what a message has become.
func (r *room) refuse(from *member, msg []byte, private bool) {
	r.t.Helper()
	for _, m := range r.members {
		if m == from || private && !m.impl.can(tamperedPrivate) {
			continue
		}
		for i, bad := range tampered(msg) {
			if a, err := m.impl.do(request{Op: "process", Member: m.id, Message: bad}); err == nil {
				r.t.Fatalf("%v took what %v had not sent (copy %d) for a %s", m, from, i, a.Kind)
			}
		}
	}
}

// TestTampered turns bits in what one side sends: the other must refuse it, and then take what was sent.
func TestTampered(t *testing.T) {
	eachPair(t, func(t *testing.T, first, second *implementation) {
		r := quartet(t, first, second)
		for _, by := range r.members[:2] {
			for _, private := range []bool{false, true} {
				c := commit{r: request{Path: true, Private: private, AAD: []byte("of a commit")}}
				made := r.makeCommit(by, c)
				r.refuse(by, made.Message, private)
				r.deliver(by, c, made)
			}
			msg := r.send(by, []byte("from "+by.String()))
			r.refuse(by, msg.bytes, true)
			r.read(msg)
		}
		for _, informer := range r.members[:2] {
			for _, impl := range []*implementation{first, second} {
				m := newMember(t, impl, 1, fmt.Sprint("of ", impl.name, " by ", informer))
				info, tree := informer.groupInfo()
				for n, bad := range tampered(info) {
					q := request{Op: "externalJoin", Member: m.id, Profile: &m.profile, GroupInfo: bad, Tree: tree}
					if _, err := impl.do(q); err == nil {
						t.Fatalf("%v joins by a GroupInfo that %v did not make (copy %d)", m, informer, n)
					}
				}
				r.externalJoin(m, informer, external{})
			}
		}
	})
}
