package mls

import (
	"bytes"
	"testing"
)

func TestRFC9420_8_4(t *testing.T) {
	w, alice, bob, _ := threeWorld(t)
	psk := func(nonce []byte) Proposal {
		return Proposal{Type: ProposalPSK, PSK: &PSKID{ID: []byte("known"), Nonce: nonce}}
	}
	t.Run("the Welcome has the commit's PSKs in the commit's order", func(t *testing.T) {
		dave := newClient(t, "dave")
		staged := w.stage(alice, CommitOptions{PSK: testPSK, NoPending: true, Proposals: []Proposal{
			psk(nil), {Type: ProposalAdd, KeyPackage: dave.kp}, psk(nil), psk(nil),
		}})
		wel, _, err := parseWelcome(staged.Welcome)
		if err != nil {
			t.Fatal(err)
		}
		secrets := must(wel.open(dave.kp, dave.secrets.InitKey))(t)
		i := 0
		for _, p := range staged.content.content.commit.proposals {
			if p.proposal.Type == ProposalPSK {
				wantBytes(t, "PSK", marshal(secrets.psks[i]), marshal(p.proposal.PSK))
				i++
			}
		}
		if i != 3 || len(secrets.psks) != 3 {
			t.Fatalf("%d PSKs, %d in the commit", len(secrets.psks), i)
		}
		join := JoinConfig{Welcome: staged.Welcome, Tree: staged.Change.After.Tree(), KeyPackage: dave.kp, Secrets: dave.secrets, PSK: testPSK, Rules: w.rules}
		if _, _, err := Join(join); err != nil {
			t.Error(err)
		}
		// In another order they give another psk_secret: the newcomer does not find the GroupInfo's key.
		secrets.psks[0], secrets.psks[1] = secrets.psks[1], secrets.psks[0]
		kem, ct, err := suite1.EncryptWithLabel(dave.kp.InitKey(), labelWelcomeHPKE, wel.encryptedGroupInfo, marshal(secrets))
		if err != nil {
			t.Fatal(err)
		}
		wel.secrets[0].secrets = hpkeCiphertext{kemOutput: kem, ciphertext: ct}
		join.Welcome = marshal(wel)
		_, _, err = Join(join)
		failure(ErrUnauthenticated).check(t, "another order", err)
	})
	t.Run("a PSK's nonce has the length of a hash", func(t *testing.T) {
		for _, n := range []int{0, 31, 33} {
			want := rule("12.1.4", "nonce")
			w.bothRefuse(t, bob, proposed(alice, psk(make([]byte, n))), want)
			w.bothRefuse(t, bob, w.lawless(t, alice, value(alice, psk(make([]byte, n)))), want)
			_, err := alice.group.Commit(CommitOptions{Proposals: []Proposal{psk(make([]byte, n))}, PSK: testPSK})
			want.check(t, "sender", err)
		}
		w.bothTake(t, bob, w.lawless(t, alice, value(alice, psk(make([]byte, 32)))))
	})
	t.Run("a PSK's nonce is random", func(t *testing.T) {
		var nonces [][]byte
		for range 3 {
			staged := w.stage(alice, CommitOptions{PSK: testPSK, NoPending: true, Proposals: []Proposal{psk(nil), psk(nil)}})
			for _, p := range staged.Change.Proposals {
				for _, n := range nonces {
					if bytes.Equal(n, p.PSK.Nonce) {
						t.Fatal("a nonce twice")
					}
				}
				nonces = append(nonces, p.PSK.Nonce)
			}
		}
	})
}
