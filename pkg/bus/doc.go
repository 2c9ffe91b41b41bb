// Package bus is the system's memory and its only way from one service to another: streams, subjects, compare-and-swap
// publishing, reading, ordered consumers, hints and calls over NATS JetStream, and the embedded server for development and tests.
//
// Guarantees:
//   - No name reaches NATS. Subjects, consumer names and message ids hold tokens: a keyed hash under the deployment's key, so what the
//     server logs or counts says nothing without that key. Only this package makes a [Subject].
//   - A message that [Bus.Publish] acknowledged is stored as durably as the deployment's replicas and sync setting say; what it did not
//     acknowledge may or may not be stored, and the error says so.
//   - No header but the few Nats- ones that Publish itself needs is stored, and on the log that of the trace which a message belongs to, if that is kept: trace
//     context crosses the bus within the group zone only, from the hub to fan-out ([Family.Traced]).
//   - [Bus.Last] and [Bus.At] read from the stream's leader and so see every acknowledged write. [Bus.Read] may lag behind on a replicated
//     stream, but what it returns is complete up to where it stops, and it says whether there is more.
//   - [Bus.Consume] handles the messages of one key in order and each at least once.
//   - Nothing here ever deletes a stream, and [Bus.Init] refuses a change that could lose data.
//
// Not guaranteed: exactly-once. A handler sees a message again after a crash, and for a short time two replicas may handle the same one
// (see Consume); the duplicate window is a convenience and never the argument.
package bus
