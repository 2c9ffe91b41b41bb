package client

import (
	"bytes"
	"maps"
	"math"
	"reflect"
	"slices"
	"strings"
	"testing"
	"time"

	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/reflect/protoreflect"

	mimimiv1 "mimimi.example/api/mimimi/v1"
	"mimimi.example/pkg/mimimi"
)

// mapStore is a Store in memory, quick enough for a fuzzer. A failed transaction is not taken back: none may fail.
type mapStore map[string]map[string][]byte

func (m mapStore) View(f func(tx Tx) error) error   { return f(m) }
func (m mapStore) Update(f func(tx Tx) error) error { return f(m) }
func (m mapStore) Close() error                     { return nil }

func (m mapStore) Get(bucket string, key []byte) []byte { return m[bucket][string(key)] }

func (m mapStore) Put(bucket string, key, value []byte) error {
	if m[bucket] == nil {
		m[bucket] = make(map[string][]byte)
	}
	m[bucket][string(key)] = bytes.Clone(value)
	return nil
}

func (m mapStore) Delete(bucket string, key []byte) error {
	delete(m[bucket], string(key))
	return nil
}

func (m mapStore) Each(bucket string, from []byte, f func(key, value []byte) error) error {
	for _, k := range slices.Sorted(maps.Keys(m[bucket])) {
		if k < string(from) {
			continue
		}
		if err := f([]byte(k), m[bucket][k]); err != nil {
			return err
		}
	}
	return nil
}

func (m mapStore) clone() mapStore {
	c := make(mapStore)
	for bucket, b := range m {
		c[bucket] = maps.Clone(b)
	}
	return c
}

// told is a client with one contact, and a message of each kind that another client of its user can send.
type told struct {
	store mapStore
	other string
	says  []*mimimiv1.DeviceSync
}

func newTold(f *testing.F) *told {
	f.Helper()
	must := func(err error) {
		if err != nil {
			f.Fatal(err)
		}
	}
	user, err := mimimi.ParseUser("mimi://a.example/u/alice")
	must(err)
	rec, err := newAccountRecord(ProviderInfo{Domain: "a.example"}, user)
	must(err)
	second, err := newAccountRecord(ProviderInfo{Domain: "a.example"}, user)
	must(err)
	pseudonym, err := mimimi.NewUserPseudonym("a.example")
	must(err)
	group, err := mimimi.NewGroupID("hub.example")
	must(err)
	d := &told{store: make(mapStore), other: second.Client}
	k := &contactRecord{User: "mimi://b.example/u/bob", State: ContactConnected, Key: mimimi.NewConnectionKey().Bytes(), Token: mimimi.NewConnectionToken().Bytes(),
		OwnToken: mimimi.NewConnectionToken().Bytes(), Version: 2, Number: 3}
	must(write(d.store, bucketMeta, keyAccount, rec))
	must(write(d.store, bucketContacts, []byte(k.User), k))
	key, token := mimimi.NewConnectionKey().Bytes(), mimimi.NewConnectionToken().Bytes()
	second.SecretsNumber, second.KeyNumber, second.NextKey, second.NextNumber = 1, 1, key, 2
	contact := func(user string, number uint64, state ContactState) *mimimiv1.DeviceSync {
		return &mimimiv1.DeviceSync{Change: &mimimiv1.DeviceSync_Contact{Contact: &mimimiv1.SharedContact{Number: number, User: user, State: string(state), Key: key,
			Token: token, OwnToken: token, GroupId: []byte(group.Wire()), KeyNumber: 4, OldKeys: [][]byte{key}, Told: 1, TokenNumber: 1, OwnNumber: 1, Spare: [][]byte{token}}}}
	}
	d.says = []*mimimiv1.DeviceSync{
		{Change: &mimimiv1.DeviceSync_Secrets{Secrets: second.sharedSecrets()}},
		contact(k.User, 2, ContactConnected), contact(k.User, 3, ContactConnected), contact("mimi://b.example/u/carol", 1, ContactRequested),
		{Change: &mimimiv1.DeviceSync_Contact{Contact: &mimimiv1.SharedContact{Number: 3, User: k.User, Gone: true}}},
		{Change: &mimimiv1.DeviceSync_Request{Request: &mimimiv1.SharedRequest{SealedRequest: make([]byte, mimimi.SealedConnectionRequestSize)}}},
		{Change: &mimimiv1.DeviceSync_Request{Request: &mimimiv1.SharedRequest{Settled: "00112233445566778899aabbccddeeff"}}},
		{Change: &mimimiv1.DeviceSync_Group{Group: &mimimiv1.SharedGroup{GroupId: []byte(group.Wire()), Name: "friends", UserPseudonym: pseudonym.Wire(), Number: 1,
			Peer: k.User, Clients: []string{rec.Client}, Made: 1_700_000_000}}},
		{Change: &mimimiv1.DeviceSync_Group{Group: &mimimiv1.SharedGroup{GroupId: []byte(group.Wire()), Over: true}}},
		{Change: &mimimiv1.DeviceSync_Packages{Packages: &mimimiv1.GroupPackages{Client: d.other, Packages: []*mimimiv1.GroupPackage{
			{GroupId: []byte(group.Wire()), KeyPackage: []byte("package"), LinkKey: key}}}}},
		{Change: &mimimiv1.DeviceSync_Ask{Ask: true}},
	}
	d.says = append(d.says, &mimimiv1.DeviceSync{Also: slices.Clone(d.says)})
	return d
}

// broken returns each message with one of its fields as it must not be: bytes without their end, text that is too long, or a number that is too far ahead.
func broken(says []*mimimiv1.DeviceSync) (all []*mimimiv1.DeviceSync) {
	for _, s := range says {
		for n := 0; ; n++ {
			m, left := proto.CloneOf(s), n
			if !breakField(m.ProtoReflect(), &left) {
				break
			}
			all = append(all, m)
		}
	}
	return all
}

// breakField breaks the n-th field of a message, and says whether it has so many.
func breakField(m protoreflect.Message, n *int) (done bool) {
	m.Range(func(f protoreflect.FieldDescriptor, v protoreflect.Value) bool {
		switch {
		case f.IsList() && f.Message() != nil:
			for i := range v.List().Len() {
				if done = breakField(v.List().Get(i).Message(), n); done {
					return false
				}
			}
			return true
		case f.Message() != nil:
			done = breakField(v.Message(), n)
			return !done
		}
		*n--
		if done = *n < 0; !done {
			return true
		}
		switch {
		case f.IsList() && f.Kind() == protoreflect.BytesKind:
			m.Mutable(f).List().Set(0, protoreflect.ValueOfBytes([]byte("short")))
		case f.Kind() == protoreflect.BytesKind:
			m.Set(f, protoreflect.ValueOfBytes(v.Bytes()[:len(v.Bytes())-1]))
		case !f.IsList() && f.Kind() == protoreflect.StringKind:
			m.Set(f, protoreflect.ValueOfString(v.String()+strings.Repeat("x", 2000)))
		case f.Kind() == protoreflect.Uint64Kind:
			m.Set(f, protoreflect.ValueOfUint64(math.MaxUint64))
		case f.Kind() == protoreflect.Int64Kind:
			m.Set(f, protoreflect.ValueOfInt64(math.MaxInt64))
		}
		return false
	})
	return done
}

// client returns the client, with a store of its own.
func (d *told) client(t *testing.T) (*Client, mapStore) {
	t.Helper()
	m := d.store.clone()
	c := &Client{cfg: Config{Now: func() time.Time { return time.Unix(1_700_000_000, 0) }, Spread: -1}, news: make(chan struct{}), slot: make(chan struct{}, 1),
		store: &store{Store: m}, groups: make(map[string]*group)}
	c.reread(t)
	c.own = []string{c.account.rec.Client, d.other}
	return c, m
}

// reread loads the account, as the next process does.
func (c *Client) reread(t *testing.T) {
	t.Helper()
	rec, found, err := get[accountRecord](c.store, bucketMeta, keyAccount)
	if err != nil || !found {
		t.Fatalf("no account is left: %v", err)
	}
	if c.account, err = rec.parse(); err != nil {
		t.Fatalf("the account is not one any more: %v", err)
	}
	for _, b := range [][]byte{rec.NextKey, rec.OldKey} {
		if _, err := mimimi.ConnectionKeyFrom(b); err != nil && b != nil {
			t.Error("an own key was taken over that is none")
		}
	}
}

// FuzzDeviceSync has a client receive what the user's other clients send, or somebody who is none of them: it never fails, what it takes over is what it can use, and of
// those who may say nothing it takes nothing.
func FuzzDeviceSync(f *testing.F) {
	d := newTold(f)
	for _, s := range append(d.says, broken(d.says)...) {
		b, err := proto.Marshal(s)
		if err != nil {
			f.Fatal(err)
		}
		for who := range uint8(3) {
			f.Add(b, who)
		}
	}
	f.Fuzz(func(t *testing.T, body []byte, who uint8) {
		c, m := d.client(t)
		g := &group{rec: &groupRecord{Devices: who%3 != 1}}
		from := &leafRecord{User: c.account.rec.User, Client: d.other}
		if who%3 == 2 {
			from.User = "mimi://b.example/u/bob"
		}
		if err := c.receiveSync(m, g, from, body, 1); err != nil {
			t.Fatalf("a message makes a transaction fail: %v", err)
		}
		if who%3 != 0 && (!reflect.DeepEqual(m, d.store) || g.rec.TellAll) {
			t.Error("something was taken over from somebody who is not an own client in the group of the own clients")
		}
		s := new(mimimiv1.DeviceSync)
		if proto.Unmarshal(body, s) != nil {
			delete(m, bucketEvents) // it is said
			delete(m[bucketMeta], string(keySequence))
			if !reflect.DeepEqual(m, d.store) {
				t.Error("something was taken over from what cannot be read")
			}
			return
		}
		again := new(mimimiv1.DeviceSync)
		if err := proto.Unmarshal(encoded(s), again); err != nil || !proto.Equal(s, again) {
			t.Errorf("what was read is not what is written: %v", err)
		}
		c.checkTaken(t)
	})
}

// checkTaken checks that every record can be used.
func (c *Client) checkTaken(t *testing.T) {
	t.Helper()
	if r := c.account.rec; r.SecretsNumber > 1<<40 || r.KeyNumber > 1<<40 || r.NextNumber > 1<<40 {
		t.Error("a number was taken over on which nobody can count on")
	}
	c.reread(t)
	contacts, err1 := list[contactRecord](c.store, bucketContacts)
	shared, err2 := list[sharedGroupRecord](c.store, bucketShared)
	brings, err3 := list[bringRecord](c.store, bucketBring)
	requests, err4 := list[requestRecord](c.store, bucketRequests)
	for _, err := range []error{err1, err2, err3, err4} {
		if err != nil {
			t.Fatal(err)
		}
	}
	for _, k := range contacts {
		if k.User == "mimi://b.example/u/bob" && (k.Version > 1<<40 || k.Number > 1<<40 || k.Tokens > 1<<40 || k.OwnTokens > 1<<40) {
			t.Error("a contact's number was taken over on which nobody can count on")
		}
		if _, err := mimimi.ParseUser(k.User); err != nil || len(k.OldKeys) > maxOldKeys || len(k.Spare) > maxSpare {
			t.Errorf("a contact was taken over that is none: %v", err)
		}
		if _, _, err := k.secrets(); err != nil && k.State != ContactRequested && k.State != ContactDisconnecting {
			t.Errorf("a %s contact has no secrets", k.State)
		}
		for _, b := range k.tokens() {
			if _, err := mimimi.ConnectionTokenFrom(b); err != nil {
				t.Error("a token was taken over that is none")
			}
		}
		if _, err := k.keys(); err != nil && len(k.Key) > 0 {
			t.Error("a contact's key was taken over that is none")
		}
	}
	for _, r := range shared {
		_, err1 := mimimi.ParseGroupID(r.GroupID)
		_, err2 := mimimi.ParseUserPseudonym(r.Pseudonym)
		_, err3 := mimimi.ParseUser(r.Peer)
		if err1 != nil || err2 != nil && r.Left == 0 || err3 != nil && r.Peer != "" || len(r.Name) > maxLabel || r.Made < 0 || r.Made > 1_800_000_000 {
			t.Error("a group was taken over that is none")
		}
	}
	for _, r := range brings {
		if _, err := mimimi.ParseGroupID(r.GroupID); err != nil || !c.isOwnClient(r.Client) {
			t.Error("a KeyPackage was taken over for nobody or nothing")
		}
	}
	for _, r := range requests {
		if len(r.Sealed) != mimimi.SealedConnectionRequestSize && r.State != requestSettled {
			t.Error("a request was taken over that is none")
		}
	}
}
