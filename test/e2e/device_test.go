package e2e

import (
	"encoding/json"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
)

// deviceRow is a row of `device list -json`.
type deviceRow struct {
	ID          string `json:"id"`
	Self        bool   `json:"self"`
	Linked      bool   `json:"linked"`
	Fingerprint string `json:"fingerprint"`
}

// hasten makes p do at once what is spread over a day otherwise.
func (p *person) hasten() {
	p.t.Helper()
	p.deafen()
	p.listenAs("-spread=0s")
}

// linkDevice makes a folder another device of p's, with the commands that a person would type at both.
func (p *person) linkDevice(name string) *person {
	p.t.Helper()
	q := &person{t: p.t, name: name, user: p.user, dir: filepath.Join(p.t.TempDir(), name), home: p.home}
	p.t.Cleanup(q.report)
	var mu sync.Mutex
	var code, state string
	link, err := start(p.t, func(line string) {
		var got struct{ Code, State string }
		if err := json.Unmarshal([]byte(line), &got); err != nil {
			return
		}
		mu.Lock()
		defer mu.Unlock()
		if got.Code != "" {
			code = got.Code
		}
		state = got.State
	}, "device", "link", "-dir", q.dir, "-json", "-provider", p.home.at.ClientFile, p.user)
	if err != nil {
		p.t.Fatal(err)
	}
	read := func(s *string) string {
		mu.Lock()
		defer mu.Unlock()
		return *s
	}
	eventually(p.t, name+" to show a code", func() bool { return read(&code) != "" })
	link.kill() // it is told the same code when it is run again
	p.refused("no such device", "device approve", "AAAA-AAAA-AAAA")
	again, err := start(p.t, func(line string) {
		var got struct{ Code, State string }
		if json.Unmarshal([]byte(line), &got) != nil {
			return
		}
		mu.Lock()
		defer mu.Unlock()
		if got.Code != "" && got.Code != code {
			p.t.Errorf("%s shows another code after a kill", name)
		}
		state = got.State
	}, "device", "link", "-dir", q.dir, "-json", "-provider", p.home.at.ClientFile, p.user)
	if err != nil {
		p.t.Fatal(err)
	}
	p.must(nil, "device approve", strings.ToLower(read(&code)))
	eventually(p.t, name+" to be linked", func() bool { return read(&state) == "linked" && !again.running() })
	q.listenAs("-spread=0s")
	return q
}

// TestDevices links a second device by its code, uses it, and removes it.
func TestDevices(t *testing.T) {
	w := newWorld(t, "ab")
	alice, bob := register(t, w.a, "alice"), register(t, w.b, "bob")
	alice.hasten()
	introduce(alice, bob)
	g := create(alice, "friends", bob)
	phone := alice.linkDevice("phone")
	phone.await("its link", about("linked", ""))
	alice.await("the new device", about("device_added", ""))

	eventually(t, "the phone to be in the group", func() bool {
		var rows []groupRow
		phone.must(&rows, "group list")
		return len(rows) == 1 && rows[0].Name == "friends" && rows[0].State == "active" && rows[0].Members == 2
	})
	var rows []groupRow
	phone.must(&rows, "group list")
	g[phone] = rows[0].ID
	g.say(phone, "from the phone")
	g.say(alice, "from alice")
	g.agreed(t, 2, alice, bob, phone)
	for _, p := range []*person{alice, phone} {
		var list []deviceRow
		p.must(&list, "device list")
		if len(list) != 2 || !list[0].Self || list[1].Self || !list[0].Linked || !list[1].Linked || list[0].Fingerprint == "" {
			t.Errorf("%s lists %+v", p.name, list)
		}
	}

	var list []deviceRow
	alice.must(&list, "device list")
	alice.must(nil, "device remove", list[1].ID)
	eventually(t, "the phone to see its removal", func() bool { return slices.ContainsFunc(phone.seen(), about("device_removed", "")) })
	g.say(alice, "without the phone")
	g.agreed(t, 3, alice, bob)
	if got := phone.shown(g[phone]); len(got) != 2 {
		t.Errorf("the removed device was shown %q", got)
	}
	alice.refused("no such device", "device remove", list[1].ID)
	for _, p := range []*person{alice, bob} {
		p.sound()
		noWarnings(t, p)
	}
	w.b.stop()
	w.a.stop()
}
