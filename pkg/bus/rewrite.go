package bus

import (
	"bytes"
	"encoding/json"
	"io"
	"strings"

	"github.com/klauspost/compress/s2"
	"github.com/nats-io/nats-server/v2/server/archive"
	"github.com/nats-io/nats.go/jetstream"
)

// streamConfig is a stream's configuration.
type streamConfig = jetstream.StreamConfig

// rewriting says how a stream's snapshot is changed on its way back.
type rewriting struct {
	name  string
	floor uint64 // of a GROUP stream: how far fan-out was when the backup began
	RestoreOptions
}

// The names of a snapshot's entries that are no messages. The others are named by their subjects; the last one has no name.
const (
	entryState     = "state.json"
	entryConsumers = "consumers/"
)

// snapshotState is the part of state.json that is changed.
type snapshotState struct {
	First     uint64 `json:"first_seq"`
	Last      uint64 `json:"last_seq"`
	Messages  uint64 `json:"messages"`
	Bytes     uint64 `json:"bytes"`
	Consumers int    `json:"consumer_count"`
}

// position is a place in a consumer's and in its stream's sequence.
type position struct {
	Consumer uint64 `json:"consumer_seq"`
	Stream   uint64 `json:"stream_seq"`
}

// snapshotConsumer is an entry of a consumer.
type snapshotConsumer struct {
	Config json.RawMessage `json:"config"`
	State  struct {
		Delivered position `json:"delivered"`
		AckFloor  position `json:"ack_floor"`
	} `json:"state"`
}

// rewrite copies a stream's snapshot from r to w: its state, its consumers, its messages and an end, with what a restore changes.
func rewrite(w io.Writer, r io.Reader, how *rewriting) error {
	in, packed := archive.NewReader(s2.NewReader(r)), s2.NewWriter(w, s2.WriterConcurrency(1)) // no goroutine that a failure could leave
	out := archive.NewWriter(packed)
	h, err := in.Next()
	if err != nil || h.Name != entryState {
		return errBackup
	}
	var state snapshotState
	if err := json.NewDecoder(in).Decode(&state); err != nil {
		return errBackup
	}
	consumers, err := how.consumers(in, state.Consumers)
	if err != nil {
		return err
	}
	if !how.Look {
		state.First = max(state.First, 1)
		state.Last = max(state.Last, state.First-1)
		state.Last += gapAfter(state.Last)
		if state.Messages == 0 {
			state.First = state.Last + 1 // an empty stream begins after its gap
		}
	}
	state.Consumers = len(consumers)
	if err := writeEntry(out, h, state); err != nil {
		return err
	}
	for _, c := range consumers {
		if err := writeEntry(out, &archive.Header{Name: entryConsumers + fanoutConsumer, Timestamp: h.Timestamp}, c); err != nil {
			return err
		}
	}
	if err := how.messages(out, in); err != nil {
		return err
	}
	if err := out.Flush(); err != nil {
		return err
	}
	return packed.Close()
}

// writeEntry writes an entry whose content is JSON.
func writeEntry(out *archive.Writer, h *archive.Header, content any) error {
	raw, err := json.Marshal(content)
	if err != nil {
		return err
	}
	if err := out.WriteHeader(&archive.Header{Name: h.Name, Timestamp: h.Timestamp, PayloadSize: int64(len(raw))}); err != nil {
		return err
	}
	_, err = out.Write(raw)
	return err
}

// consumers reads a snapshot's consumers and returns those that are restored: fan-out's, at the place where it was when the backup began. All others are made again by who needs them.
func (how *rewriting) consumers(in *archive.Reader, n int) ([]*snapshotConsumer, error) {
	var kept []*snapshotConsumer
	for range n {
		h, err := in.Next()
		if err != nil || !strings.HasPrefix(h.Name, entryConsumers) {
			return nil, errBackup
		}
		c := new(snapshotConsumer)
		if err := json.NewDecoder(in).Decode(c); err != nil {
			return nil, errBackup
		}
		if h.Name != entryConsumers+fanoutConsumer || !strings.HasPrefix(how.name, streamGroup+"_") {
			continue
		}
		c.State.AckFloor.Stream = min(c.State.AckFloor.Stream, how.floor)
		c.State.Delivered = c.State.AckFloor
		kept = append(kept, c)
	}
	return kept, nil
}

// messages copies the messages that are kept, and the end.
func (how *rewriting) messages(out *archive.Writer, in *archive.Reader) error {
	for {
		h, err := in.Next()
		if err != nil {
			return errBackup // a snapshot has an end of its own
		}
		data, err := io.ReadAll(io.LimitReader(in, maxPayload+1))
		if err != nil || int64(len(data)) != h.HeaderSize+h.PayloadSize {
			return errBackup
		}
		end := h.Sequence == 0
		if end && (h.Name != "" || len(data) > 0) {
			return errBackup
		}
		if !end && how.Keep != nil && !how.Keep(familyOf(h.Name).Pattern, data[h.HeaderSize:]) {
			continue
		}
		headers := withoutTrace(data[:h.HeaderSize])
		data = append(headers, data[h.HeaderSize:]...)
		h = &archive.Header{Name: h.Name, Sequence: h.Sequence, Timestamp: h.Timestamp, HeaderSize: int64(len(headers)), PayloadSize: h.PayloadSize}
		if err := out.WriteHeader(h); err != nil {
			return err
		}
		if _, err := out.Write(data); err != nil {
			return err
		}
		if end {
			return nil
		}
	}
}

// withoutTrace returns a stored message's headers without trace context: the traces that a restored message belonged to are over.
func withoutTrace(headers []byte) []byte {
	var kept []byte
	for line := range bytes.SplitAfterSeq(headers, []byte("\r\n")) {
		if !bytes.HasPrefix(line, []byte(headerTrace+":")) {
			kept = append(kept, line...)
		}
	}
	if string(kept) == "NATS/1.0\r\n\r\n" {
		return nil
	}
	return kept
}
