package main

import (
	"os"
	"path/filepath"
	"strings"
	"testing"

	"mimimi.example/pkg/client"
)

// said counts a person's events of a kind, by text.
func said(p *person, k client.EventKind) map[string]int {
	p.mu.Lock()
	defer p.mu.Unlock()
	all := make(map[string]int)
	for _, e := range p.events {
		if e.Kind == k {
			all[string(e.Body)+e.Text]++
		}
	}
	return all
}

// cutOff is a file without its end.
func cutOff(t *testing.T, path string) string {
	t.Helper()
	b, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	short := path + ".short"
	if err := os.WriteFile(short, b[:len(b)-1000], 0o600); err != nil {
		t.Fatal(err)
	}
	return short
}

// TestRestoreDrill is the drill of docs/operate.md: a domain with a conversation is backed up, goes on for a while, loses everything but its keys, and is restored to new servers. The clients go on; nothing is
// shown twice, and nothing of before the backup is lost. It is one drill, whose steps need those before.
func TestRestoreDrill(t *testing.T) {
	t.Parallel()
	d := deploy(t)
	ctx := t.Context()
	people, ids := d.friends("alice", "bob", "carol")
	alice, bob, carol := people[0], people[1], people[2]
	d.do(d.stage.send(ctx, alice, ids[alice], "one", bob, carol))
	d.do(d.stage.send(ctx, bob, ids[bob], "two", alice, carol))

	// Carol is away: what is for her waits in her queue.
	d.do(carol.close())
	delete(d.stage.people, "carol")
	d.do(d.stage.send(ctx, alice, ids[alice], "for carol", bob))

	file, private, public := filepath.Join(d.dir, "backup"), filepath.Join(d.dir, "backup.key"), filepath.Join(d.dir, "backup.pub")
	admin(t, 0, "backup-key", "-private", private, "-public", public)
	if got := admin(t, 1, "backup-key", "-private", private, "-public", public); !strings.Contains(got, "is there already") {
		t.Errorf("a second time: %s", got)
	}
	admin(t, 0, "backup", "-config", d.config("admin"), "-as", "the drill", "-key", public, "-out", file)
	admin(t, 1, "backup", "-config", d.config("admin"), "-key", public, "-out", file)
	before := d.replay(0)
	if after := d.replay(0, "-fanout", "-backup", file, "-key", private); after[len(after)-1].Entries != before[len(before)-1].Entries {
		t.Errorf("of the backup %+v are replayed, of the deployment %+v", after[len(after)-1].replaySum, before[len(before)-1].replaySum)
	}

	// What happens after the backup is lost at the servers. Those who have read it keep it.
	d.do(d.stage.send(ctx, bob, ids[bob], "after the backup", alice))
	later, err := bob.c.CreateGroup(ctx, "later")
	d.do(err)

	d.stop()
	d.url = d.server()
	if got := admin(t, 1, "restore", "-config", d.config("admin"), "-key", public, "-in", file); !strings.Contains(got, "private key: the file holds no such key") {
		t.Errorf("with the public key: %s", got)
	}
	if got := admin(t, 1, "restore", "-config", d.config("admin"), "-key", private, "-in", cutOff(t, file)); !strings.Contains(got, "corrupted") {
		t.Errorf("of a file that was cut off: %s", got)
	}
	admin(t, 0, "restore", "-config", d.config("admin"), "-as", "the drill", "-key", private, "-in", file)
	if got := admin(t, 1, "restore", "-config", d.config("admin"), "-key", private, "-in", file); !strings.Contains(got, "begins with empty ones") {
		t.Errorf("a second time: %s", got)
	}
	admin(t, 0, "check", "-config", d.config("admin"))
	if log := admin(t, 0, "audit", "-json", "-config", d.config("admin")); !strings.Contains(log, `"as":"the drill","action":"restore","outcome":"done"`) || !strings.Contains(log, `"action":"backup","outcome":"begun"`) {
		t.Errorf("the audit log: %s", log)
	}
	d.start()

	d.do(d.stage.send(ctx, bob, ids[bob], "after the restore", alice))
	c, err := client.Open(ctx, client.Config{Dir: filepath.Join(d.dir, "people", "carol"), Provider: d.stage.domains[ownDomain].Info(), Spread: -1})
	d.do(err)
	carol, err = d.stage.enter(ctx, "carol", c)
	d.do(err)
	for _, text := range []string{"for carol", "after the restore"} {
		_, err = carol.await(ctx, text, isMessage(map[string]*person{"for carol": alice, "after the restore": bob}[text].user, text))
		d.do(err)
	}
	d.do(d.stage.send(ctx, carol, ids[people[2]], "back again", alice, bob))

	// Somebody new comes in, so commits, KeyPackages and tokens go on, too.
	dave, err := d.stage.arrive(ctx, "dave", ownDomain)
	d.do(err)
	d.do(d.stage.connect(ctx, alice, dave))
	d.do(alice.c.Add(ctx, ids[alice], dave.user))
	in, err := joined(ctx, []*person{dave}, nil)
	d.do(err)
	d.do(d.stage.send(ctx, dave, in[dave], "hello", alice, bob, carol))
	for _, p := range []*person{alice, bob, carol} {
		for text, n := range said(p, client.EventMessage) {
			if n != 1 {
				t.Errorf("%s was shown %q %d times", p.name, text, n)
			}
		}
	}

	// What was sent after the backup is lost to carol, who had not read it. She is told once it cannot come any more: two epochs on.
	if said(carol, client.EventMessage)["after the backup"] != 0 {
		t.Error("carol was shown what the backup does not have")
	}
	d.do(alice.c.Remove(ctx, ids[alice], dave.user))
	_, err = carol.await(ctx, "the word that something is missing", func(e client.Event) bool {
		return e.Kind == client.EventWarning && strings.Contains(e.Text, "may be missing here")
	})
	d.do(err)
	if w := said(alice, client.EventWarning); len(w) > 1 { // that dave found no one-time KeyPackage of hers
		t.Errorf("alice, who missed nothing, was warned: %v", w)
	}

	// A group of after the backup is gone at the hub. Its client asks for a week before it believes that, and says so after a while; all else goes on.
	_, err = bob.c.Send(ctx, later, []byte("to nobody"))
	d.do(err)
	d.do(d.stage.send(ctx, bob, ids[bob], "the end", alice, carol))
	if lines := d.replay(0, "-fanout"); lines[len(lines)-1].Divergences != 0 {
		t.Errorf("after the drill: %+v", lines[len(lines)-1].replaySum)
	}
}
