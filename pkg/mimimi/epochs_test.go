package mimimi

import "testing"

func TestEpochsCounts(t *testing.T) {
	e := NewEpochs(3)
	e.Commit(4, 100, false)
	e.Commit(5, 105, false)
	for _, c := range []struct {
		name  string
		epoch uint64
		at    int64
		want  bool
	}{
		{"current", 5, 500, true},
		{"ended in time", 4, 115, true},
		{"ended too long ago", 4, 116, false},
		{"two epochs back, in time", 3, 110, true},
		{"two epochs back, late", 3, 111, false},
		{"future", 6, 106, false},
		{"forgotten", 2, 106, false},
	} {
		t.Run(c.name, func(t *testing.T) {
			if got := e.Counts(c.epoch, c.at); got != c.want {
				t.Errorf("Counts(%d, %d) = %v, want %v", c.epoch, c.at, got, c.want)
			}
		})
	}
}

func TestEpochsForgetAtRemoval(t *testing.T) {
	e := NewEpochs(3)
	e.Commit(4, 100, false)
	e.Commit(5, 101, true)
	if e.Counts(4, 101) || e.Counts(3, 101) || !e.Counts(5, 101) {
		t.Error("a message of an epoch before a removal still counts")
	}
}

func TestEpochsAreBoundedAndResume(t *testing.T) {
	e := NewEpochs(0)
	for i := uint64(1); i <= 3*maxEpochRecords; i++ {
		e.Commit(i, 100, false)
	}
	if n := len(e.Records()); n > maxEpochRecords {
		t.Fatalf("%d records, want at most %d", n, maxEpochRecords)
	}
	r := e.Records()
	again := NewEpochs(e.Current(), r[:len(r)-1]...)
	for epoch := range uint64(3*maxEpochRecords + 2) {
		if again.Counts(epoch, 103) != e.Counts(epoch, 103) {
			t.Fatalf("epoch %d: a resumed value decides otherwise", epoch)
		}
	}
}
