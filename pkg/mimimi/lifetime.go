package mimimi

import (
	"time"

	"mimimi.example/pkg/mls"
)

// Week is the start of the bucket that leaves made at now belong to: the last Monday 00:00 UTC that is not after now − 24 h (§2).
// Everybody who makes a KeyPackage in the same week writes the same times into it.
func Week(now time.Time) time.Time { return monday(now.Add(-day)) }

// monday is the last Monday 00:00 UTC not after t. Truncate counts from the zero time, which is a Monday.
func monday(t time.Time) time.Time { return t.UTC().Truncate(week) }

// LeafLifetime is the lifetime of leaves made at now: from Week(now), 90 days (§2).
func LeafLifetime(now time.Time) mls.Lifetime { return lifetimeOf(Week(now)) }

func lifetimeOf(start time.Time) mls.Lifetime {
	return mls.Lifetime{NotBefore: uint64(start.Unix()), NotAfter: uint64(start.Add(leafLifetime).Unix())}
}

// currentWeek says whether a leaf of that week can have been made shortly before now: this week, the one before it (a KeyPackage
// on its way when the week turned), or the next one within the clock skew.
func currentWeek(start, now time.Time) bool {
	return !start.After(Week(now.Add(clockSkew))) && !start.Before(Week(now).Add(-week))
}

// liveWeek says whether a leaf of that week may enter a group at the given time. It is how age is read from a leaf without a
// lifetime (§2).
func liveWeek(start, at time.Time) bool {
	return !at.Before(start) && !at.After(start.Add(leafLifetime))
}

// checkMinute is the freshness of signed requests (§9): a whole minute, at most ten from now.
func checkMinute(minute, now time.Time, section string) error {
	switch {
	case !minute.Equal(minute.Truncate(time.Minute)):
		return invalid(section, "a request's time is a whole minute")
	case minute.Before(now.Add(-requestSkew)) || minute.After(now.Add(requestSkew)):
		return invalid(section, "a request is at most ten minutes old")
	}
	return nil
}
