package mimimi

import (
	"testing"
	"time"
)

func TestAccountRequest(t *testing.T) {
	k, other := must(Suite.GenerateSignatureKey()), must(Suite.GenerateSignatureKey())
	r := AccountRequest{Operation: "fetch inbox", Client: must(NewClient("a.example")), Minute: noon, Body: []byte("body")}
	sig := SignAccountRequest(k, &r)
	wantOK(t, VerifyAccountRequest(k.Public(), &r, sig, noon.Add(10*time.Minute)))
	wantErr(t, VerifyAccountRequest(other.Public(), &r, sig, noon), ErrUnauthenticated, "")
	wantErr(t, VerifyAccountRequest(k.Public(), &r, sig, noon.Add(time.Hour)), ErrInvalid, "a request is at most ten minutes old")
	for name, change := range map[string]func(*AccountRequest){
		"operation": func(r *AccountRequest) { r.Operation = "ack inbox" },
		"client":    func(r *AccountRequest) { r.Client = must(NewClient("a.example")) },
		"id":        func(r *AccountRequest) { r.RequestID[0]++ },
		"minute":    func(r *AccountRequest) { r.Minute = r.Minute.Add(time.Minute) },
		"body":      func(r *AccountRequest) { r.Body = nil },
	} {
		changed := r
		change(&changed)
		if VerifyAccountRequest(k.Public(), &changed, sig, noon) == nil {
			t.Errorf("the signature does not cover the %s", name)
		}
	}
}
