package bus

import (
	"fmt"
	"time"
)

// GroupPartition is the handshakes of all groups of one partition (0 ≤ p < GroupPartitions), for reads: group.<p>.*.c. The hub looks through it for groups
// that have been quiet for so long that they need a checkpoint.
func (b *Bus) GroupPartition(p int) Subject {
	return Subject{name: fmt.Sprintf("group.%d.*.c", p), stream: streamName(streamGroup, p)}
}

// GroupPartitions is the number of GROUP streams.
func (b *Bus) GroupPartitions() int { return b.layout.Partitions }

// GroupMaxAge is when an entry of a GROUP stream expires.
func (b *Bus) GroupMaxAge() time.Duration { return streamLimits[streamGroup].age }
