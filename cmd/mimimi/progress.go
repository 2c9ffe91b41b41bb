package main

import (
	"fmt"
	"io"
	"os"
	"strings"
	"time"
)

// progressWidth is how many characters a bar has, and progressEvery how often it is drawn.
const (
	progressWidth = 30
	progressEvery = 100 * time.Millisecond
)

// progress is a bar on a terminal; on anything else it draws nothing.
type progress struct {
	w     io.Writer // nil: nowhere
	drawn time.Time
}

// newProgress returns a bar for a writer, which shows if that is a terminal.
func newProgress(w io.Writer) *progress {
	f, ok := w.(*os.File)
	if !ok {
		return &progress{}
	}
	if info, err := f.Stat(); err != nil || info.Mode()&os.ModeCharDevice == 0 {
		return &progress{}
	}
	return &progress{w: w}
}

// at draws that done of total are done, not more often than a person can see.
func (p *progress) at(done, total uint64) {
	if p.w == nil || total == 0 || time.Since(p.drawn) < progressEvery {
		return
	}
	p.drawn = time.Now()
	done = min(done, total)
	full := int(done * progressWidth / total)
	fmt.Fprintf(p.w, "\r[%s%s] %d of %d", strings.Repeat("#", full), strings.Repeat(".", progressWidth-full), done, total)
}

// clear takes the bar away, before something else is printed.
func (p *progress) clear() {
	if p.w == nil || p.drawn.IsZero() {
		return
	}
	fmt.Fprint(p.w, "\r\x1b[K")
	p.drawn = time.Time{}
}
