package service

import "time"

const (
	maxConfig     = 1 << 20          // bytes of a configuration file; ours have a few hundred
	maxTapped     = 16 << 20         // bytes of a body held back for the tap before they are given to it in pieces
	drainTimeout  = 20 * time.Second // for the bus and the private listener, after the service has stopped; a supervisor kills after 30
	verifyTimeout = 90 * time.Second // the streams of 64 partitions are compared one by one
	headerTimeout = 5 * time.Second  // the private listener's, for slow clients
)
