package oblivious

import (
	"context"
	"net/http"
	"testing"

	"github.com/openpcc/ohttp"
	"github.com/openpcc/twoway"
)

// explosive panics where a request is opened, as a decoder with a fault would.
type explosive struct{}

func (explosive) FindSecretKey(context.Context, twoway.RequestHeader) (ohttp.SecretKeyInfo, error) {
	panic("canary")
}

// A panic before the handler is called gets the refusal that anything gets which cannot be opened.
func TestPanicWhileOpening(t *testing.T) {
	open, err := ohttp.NewGateway(explosive{})
	if err != nil {
		t.Fatal(err)
	}
	g := &Gateway{open: open, handler: http.NotFoundHandler()}
	request := make([]byte, sizeClasses[0]+requestOverhead)
	request[0], request[2], request[4], request[6] = 1, 0x20, 1, 1 // a key id and our suite
	if got := string(g.Handle(t.Context(), request)); got != refusal {
		t.Errorf("got %q", got)
	}
}
