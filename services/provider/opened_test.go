package provider

import (
	"errors"
	"fmt"
	"testing"

	"mimimi.example/pkg/mimimi"
)

// TestOpened: what opened once is not opened again, unless pseudonym or sealed id differ; failures are tried again; and the memory is bounded, but keeps what is used.
func TestOpened(t *testing.T) {
	t.Parallel()
	var o opened
	p, q := must(mimimi.NewClientPseudonym("a.example")), must(mimimi.NewClientPseudonym("a.example"))
	calls := 0
	ask := func(p mimimi.ClientPseudonym, sealed string, err error) string {
		id, _ := o.queue(p, []byte(sealed), func() (mimimi.QueueID, error) { calls++; return mimimi.NewQueueID(), err })
		return string(id.Bytes())
	}
	ask(p, "1", errors.New("no"))
	first := ask(p, "1", nil)
	if again := ask(p, "1", nil); again != first || calls != 2 {
		t.Errorf("opened %d times, want 2, or another queue", calls)
	}
	if ask(q, "1", nil) == first || ask(p, "2", nil) == first || calls != 4 {
		t.Error("another leaf's or another sealed id opened to the same queue")
	}
	for i := range 3 * maxOpened {
		ask(q, fmt.Sprint(i, "x"), nil)
		if i%1000 == 0 && ask(p, "1", nil) != first {
			t.Fatal("what is used was forgotten")
		}
		if n := len(o.young) + len(o.old); n > maxOpened {
			t.Fatalf("%d are remembered", n)
		}
	}
}
