package service

import "time"

const (
	maxConfig     = 1 << 20          // bytes of a configuration file; ours have a few hundred
	maxTapped     = 16 << 20         // bytes of a body held back for the tap before they are given to it in pieces
	drainTimeout  = 10 * time.Second // for the bus, for the private listener and for what was measured last, one after the other, after the service has stopped, which takes up to 30 for a call begun before: a supervisor kills after 75
	verifyTimeout = 5 * time.Minute  // the streams of 64 partitions are compared one by one, and a fresh cluster makes 200 of them first
	verifyPause   = 2 * time.Second  // before it is looked again whether they are there
	headerTimeout = 5 * time.Second  // the private listener's, for slow clients
)
