package mls

import "testing"

// TestXWingFollowsTSMLS: the official vectors have no post-quantum suite. The file holds one case in their passive-client format, a group of
// four that ts-mls 2.0.0-rc.10 made with its suite 0xF00D: commits of two members, one with an Add and one a PrivateMessage.
func TestXWingFollowsTSMLS(t *testing.T) {
	cases := vectorCases(t, "testdata/xwing-passive-client.json")
	if len(cases) != 1 {
		t.Fatalf("%d cases", len(cases))
	}
	vectorPassiveClient(t, cases[0])
}
