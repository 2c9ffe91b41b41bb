package bus

import (
	"crypto/hmac"
	"crypto/sha256"
	"encoding/base32"
	"errors"
	"hash/fnv"
	"strings"
)

// Layout is what all services of one deployment share. Init writes it into the streams and Verify compares: a service with another layout
// would look for everything in the wrong place.
type Layout struct {
	Partitions    int    // GROUP, QUEUE and KP streams each, fixed for life; 0 means 8
	Replicas      int    // of every stream: 1 or 3; 0 means 1
	DeploymentKey []byte // 32 bytes; keys the subject tokens
}

// withDefaults fills in zero values.
func (l Layout) withDefaults() Layout {
	if l.Partitions == 0 {
		l.Partitions = defaultPartitions
	}
	if l.Replicas == 0 {
		l.Replicas = 1
	}
	return l
}

// validate reports every problem of a layout at once.
func (l Layout) validate() error {
	var errs []error
	if l.Partitions < 1 || l.Partitions > maxPartitions {
		errs = append(errs, errors.New("bus: partitions must be from 1 to 1024"))
	}
	if l.Replicas != 1 && l.Replicas != 3 {
		errs = append(errs, errors.New("bus: replicas must be 1 or 3"))
	}
	if len(l.DeploymentKey) != sha256.Size {
		errs = append(errs, errors.New("bus: the deployment key must have 32 bytes"))
	}
	return errors.Join(errs...)
}

var tokenEncoding = base32.StdEncoding.WithPadding(base32.NoPadding)

// token is t(kind, x) of the architecture: 32 lower-case characters that say nothing without the deployment key. The zero byte
// keeps kind and x apart: no kind contains one.
func (l Layout) token(kind string, x []byte) string {
	mac := hmac.New(sha256.New, l.DeploymentKey)
	mac.Write([]byte(kind))
	mac.Write([]byte{0})
	mac.Write(x)
	return strings.ToLower(tokenEncoding.EncodeToString(mac.Sum(nil)[:tokenBytes]))
}

// partition is fnv1a-32(token) mod P, the same function as the server's partition() in subject mappings.
func (l Layout) partition(token string) int {
	h := fnv.New32a()
	h.Write([]byte(token))
	return int(h.Sum32() % uint32(l.Partitions))
}
