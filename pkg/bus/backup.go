package bus

import (
	"bufio"
	"bytes"
	"context"
	"encoding/binary"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"slices"
	"strings"
	"time"

	"github.com/nats-io/nats.go"

	"mimimi.example/pkg/problem"
)

// A backup is a sequence of frames: one byte of kind, four of length, the content. First the head, then for each stream its name, the server's snapshot in pieces and
// an end, then the end of all.
const (
	frameHead   = 'h' // backupHead
	frameStream = 's' // its name
	frameData   = 'd'
	frameEnd    = 'e' // of a stream
	frameLast   = 'z' // of the backup
)

// backupVersion is the version of the format.
const backupVersion = 1

// backupHead is what a restore must know before anything else.
type backupHead struct {
	Version    int               `json:"version"`
	Begun      time.Time         `json:"begun"` // rounded down to seconds
	Partitions int               `json:"partitions"`
	Key        string            `json:"key"`        // a token of the deployment key, as in the streams' metadata
	FannedOut  map[string]uint64 `json:"fanned_out"` // by GROUP stream: how far fan-out was before anything was read
}

// backupOrder sorts the streams as a backup reads them, one after the other, while the services go on. What follows from something is read before it, so that a restored
// deployment has nothing whose cause it lacks; what then lacks its consequence has it made again:
//
//   - OUTBOX before the QUEUEs, and both before the GROUPs: a delivery that is in a queue or on its way has its entry in the log. Deliveries of entries that fan-out had worked off when
//     the backup began are in OUTBOX or in the queues; those of later ones are made again, since fan-out begins where it was then. Their ids are the same, so nobody sees one twice.
//   - QUEUEs before BODY and QUEUEMETA: an entry has its body, a queue its record.
//   - SPENT last: a token that paid for something restored is spent. One whose deed is lost pays for that deed alone, when its request is repeated.
func backupOrder(names []string) {
	rank := func(name string) int {
		kind, _, _ := strings.Cut(name, "_")
		return slices.Index([]string{streamOutbox, streamQueue, streamBody, streamQueueMeta, streamGroup, streamDead, streamKeyPackage, streamKPIndex}, kind)
	}
	late := func(name string) int {
		if name == streamSpent {
			return 1 << 20
		}
		if r := rank(name); r >= 0 {
			return r
		}
		return 1 << 10
	}
	slices.SortStableFunc(names, func(a, b string) int { return late(a) - late(b) })
}

// Backup writes all of the deployment's streams to w, while the services go on. It is for the admin service, and needs NATS 2.15 or later. The content is what all services together store:
// encrypt it on the way. progress is called with each stream's name before it is read. A backup that was not written to its end is of no use, and Restore refuses it.
func (b *Bus) Backup(ctx context.Context, w io.Writer, progress func(stream string)) error {
	head := backupHead{Version: backupVersion, Begun: time.Now().UTC().Truncate(time.Second), Partitions: b.layout.Partitions, Key: b.layout.token("layout", nil), FannedOut: make(map[string]uint64)}
	for p := range b.layout.Partitions {
		var err error
		if head.FannedOut[streamName(streamGroup, p)], err = b.FannedOut(ctx, p); err != nil {
			return err
		}
	}
	raw, err := json.Marshal(head)
	if err != nil {
		return err
	}
	out := bufio.NewWriter(w)
	if err := writeFrame(out, frameHead, raw); err != nil {
		return err
	}
	names := b.layout.streamsFor(serviceAdmin)
	backupOrder(names)
	for _, name := range names {
		progress(name)
		if err := b.backupStream(ctx, out, name); err != nil {
			return fmt.Errorf("back up %s: %w", name, err)
		}
	}
	return errors.Join(writeFrame(out, frameLast, nil), out.Flush())
}

// backupStream writes one stream: the server's snapshot, in which it sends its messages piece by piece, each to be acknowledged.
func (b *Bus) backupStream(ctx context.Context, w io.Writer, name string) error {
	inbox := b.nc.NewInbox()
	sub, err := b.nc.SubscribeSync(inbox)
	if err != nil {
		return problemOf(err)
	}
	defer func() { _ = sub.Unsubscribe() }() // fails only when the connection is gone
	if err := sub.SetPendingLimits(maxSnapshotPending, maxSnapshotPendingBytes); err != nil {
		return problemOf(err)
	}
	if err := b.api(ctx, "STREAM.SNAPSHOT."+name, map[string]any{"deliver_subject": inbox, "chunk_size": snapshotChunk, "window_size": snapshotWindow}, nil); err != nil {
		return err
	}
	if err := writeFrame(w, frameStream, []byte(name)); err != nil {
		return err
	}
	for {
		bound, cancel := context.WithTimeout(ctx, callTimeout)
		m, err := sub.NextMsgWithContext(bound)
		cancel()
		if err != nil {
			return problemOf(err)
		}
		if len(m.Data) == 0 { // the end
			if status := m.Header.Get("Status"); status != "" && status != "204" {
				return problem.New(problem.Unavailable, "the bus broke off a snapshot: try again")
			}
			return writeFrame(w, frameEnd, nil)
		}
		if err := writeFrame(w, frameData, m.Data); err != nil {
			return err
		}
		if m.Reply != "" {
			if err := m.Respond(nil); err != nil {
				return problemOf(err)
			}
		}
	}
}

func writeFrame(w io.Writer, kind byte, content []byte) error {
	head := binary.BigEndian.AppendUint32([]byte{kind}, uint32(len(content)))
	if _, err := w.Write(head); err != nil {
		return err
	}
	_, err := w.Write(content)
	return err
}

var errBackup = errors.New("bus: the backup is damaged or not complete")

// readFrame reads one frame. Its content is valid until the next one is read.
func readFrame(r io.Reader, buf *bytes.Buffer) (kind byte, content []byte, err error) {
	var head [5]byte
	if _, err := io.ReadFull(r, head[:]); err != nil {
		return 0, nil, errBackup
	}
	n := binary.BigEndian.Uint32(head[1:])
	if n > maxFrame {
		return 0, nil, errBackup
	}
	buf.Reset()
	if _, err := io.CopyN(buf, r, int64(n)); err != nil {
		return 0, nil, errBackup
	}
	return head[0], buf.Bytes(), nil
}

// RestoreOptions says what of a backup is restored, and how.
type RestoreOptions struct {
	// Only says which streams are restored; nil: all.
	Only func(stream string) bool
	// Keep says which messages are restored, by the pattern of their family; nil: all.
	Keep func(family string, data []byte) bool
	// Look restores the streams as they were, to look at them: no sequence is left out after them.
	Look bool
	// Progress is called with each stream's name; nil: nobody is.
	Progress func(stream string)
}

// gapAfter is how many sequences a restored stream leaves out after its last one: more than it got messages between the backup and the loss of the deployment, so as many as it ever had, within bounds. Clients and other domains
// have seen those messages and remember their sequences; without a gap they would take the next ones for these. The server walks once over the gap for each consumer, a few nanoseconds a step.
func gapAfter(last uint64) uint64 { return min(max(last, minGap), maxGap) }

// Restore writes a backup's streams to a bus on which there is none, and returns when the backup was begun. It is for the admin service; run Init afterwards, and the services after that.
// The layout must have the backup's deployment key and number of partitions; the number of replicas may be another. Fan-out goes on where it was when the backup began, the other consumers are made anew.
//
// A restore that fails leaves some streams: begin again with empty servers. Errors: problem.Stale if there are streams.
func (b *Bus) Restore(ctx context.Context, r io.Reader, o RestoreOptions) (time.Time, error) {
	if n, err := b.countStreams(ctx); err != nil {
		return time.Time{}, err
	} else if n > 0 {
		return time.Time{}, problem.New(problem.Stale, "there are streams on these servers: a restore begins with empty ones")
	}
	in, buf := bufio.NewReader(r), new(bytes.Buffer)
	kind, content, err := readFrame(in, buf)
	if err != nil {
		return time.Time{}, err
	}
	head := new(backupHead)
	if kind != frameHead || json.Unmarshal(content, head) != nil || head.Version != backupVersion {
		return time.Time{}, errors.New("bus: this is no backup of this version")
	}
	if head.Key != b.layout.token("layout", nil) || head.Partitions != b.layout.Partitions {
		return time.Time{}, errors.New("bus: the backup is of a deployment with another deployment key or number of partitions")
	}
	for {
		kind, content, err := readFrame(in, buf)
		if err != nil {
			return time.Time{}, err
		}
		switch kind {
		case frameLast:
			return head.Begun, nil
		case frameStream:
			name := string(content)
			if err := b.restoreStream(ctx, in, name, head, o); err != nil {
				return time.Time{}, fmt.Errorf("restore %s: %w", name, err)
			}
		default:
			return time.Time{}, errBackup
		}
	}
}

func (b *Bus) countStreams(ctx context.Context) (int, error) {
	var answer struct {
		Total int `json:"total"`
	}
	err := b.api(ctx, "STREAM.NAMES", struct{}{}, &answer)
	return answer.Total, err
}

// pieces reads one stream's snapshot from its frames.
type pieces struct {
	r    io.Reader
	buf  bytes.Buffer
	rest []byte
	over bool
}

func (p *pieces) Read(out []byte) (int, error) {
	for len(p.rest) == 0 {
		if p.over {
			return 0, io.EOF
		}
		kind, content, err := readFrame(p.r, &p.buf)
		switch {
		case err != nil:
			return 0, err
		case kind == frameEnd:
			p.over = true
		case kind == frameData:
			p.rest = content
		default:
			return 0, errBackup
		}
	}
	n := copy(out, p.rest)
	p.rest = p.rest[n:]
	return n, nil
}

// restoreStream restores one stream with this layout's settings, or passes over it.
func (b *Bus) restoreStream(ctx context.Context, in io.Reader, name string, head *backupHead, o RestoreOptions) error {
	p := &pieces{r: in}
	if o.Only != nil && !o.Only(name) {
		_, err := io.Copy(io.Discard, p)
		return err
	}
	if o.Progress != nil {
		o.Progress(name)
	}
	all := b.layout.streams()
	i := slices.IndexFunc(all, func(c streamConfig) bool { return c.Name == name })
	if i < 0 {
		return errors.New("bus: this version has no such stream")
	}
	var answer struct {
		Subject string `json:"deliver_subject"`
	}
	if err := b.api(ctx, "STREAM.RESTORE."+name, map[string]any{"config": all[i], "state": struct{}{}}, &answer); err != nil {
		return err
	}
	rewritten, w := io.Pipe()
	go func() {
		w.CloseWithError(rewrite(w, p, &rewriting{name: name, floor: head.FannedOut[name], RestoreOptions: o}))
	}()
	chunk := make([]byte, snapshotChunk)
	for {
		n, err := io.ReadFull(rewritten, chunk)
		if n > 0 {
			if err := b.sendPiece(ctx, answer.Subject, chunk[:n]); err != nil {
				return errors.Join(err, rewritten.CloseWithError(err))
			}
		}
		if errors.Is(err, io.EOF) || errors.Is(err, io.ErrUnexpectedEOF) {
			break
		}
		if err != nil {
			_ = b.sendPiece(ctx, answer.Subject, nil) // the server need not wait for more; what it says to that is no news
			return err
		}
	}
	if err := b.sendPiece(ctx, answer.Subject, nil); err != nil {
		return err
	}
	_, err := io.Copy(io.Discard, p) // what the rewriting did not need to read
	return err
}

// sendPiece sends a piece of a snapshot and waits until the server has taken it.
func (b *Bus) sendPiece(ctx context.Context, subject string, piece []byte) error {
	ctx, cancel := context.WithTimeout(ctx, initTimeout) // the last one is answered once all of the stream is stored
	defer cancel()
	reply, err := b.nc.RequestMsgWithContext(ctx, &nats.Msg{Subject: subject, Data: piece})
	if err != nil {
		return problemOf(err)
	}
	if len(reply.Data) == 0 {
		return nil
	}
	var head struct {
		Error *apiError `json:"error"`
	}
	if err := json.Unmarshal(reply.Data, &head); err != nil {
		return problem.Wrap(problem.Internal, "the bus answered in an unknown form", err)
	}
	if head.Error != nil {
		return head.Error.problemOf()
	}
	return nil
}

// Streams are the names of the deployment's streams.
func (b *Bus) Streams() []string { return b.layout.streamsFor(serviceAdmin) }
