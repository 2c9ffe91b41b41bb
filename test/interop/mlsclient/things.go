package main

import (
	"container/list"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
)

var errUnknown = status.Error(codes.NotFound, "no client has this id, or not of this kind: it was never given out, was freed, or was forgotten for newer ones")

// things is what the server remembers, by id. If there are too many, what was not used for the longest time is forgotten: scripts come to an end without
// freeing all that they made.
type things struct {
	limit int
	last  uint32
	byID  map[uint32]*list.Element
	used  *list.List // of *thing, the last used one in front
}

type thing struct {
	id    uint32
	value any // *member, *newcomer, *ended or *signer
}

func newThings(limit int) *things {
	return &things{limit: limit, byID: map[uint32]*list.Element{}, used: list.New()}
}

// add remembers a thing and returns its id, which is not 0.
func (t *things) add(value any) uint32 {
	for t.last++; t.last == 0 || t.byID[t.last] != nil; t.last++ {
	}
	t.byID[t.last] = t.used.PushFront(&thing{t.last, value})
	if t.used.Len() > t.limit {
		t.drop(t.used.Back().Value.(*thing).id)
	}
	return t.last
}

// drop forgets a thing, and reports whether it was known.
func (t *things) drop(id uint32) bool {
	e, ok := t.byID[id]
	if ok {
		t.used.Remove(e)
		delete(t.byID, id)
	}
	return ok
}

// get returns a thing of one kind.
func get[T any](t *things, id uint32) (T, error) {
	var none T
	e, ok := t.byID[id]
	if !ok {
		return none, errUnknown
	}
	v, ok := e.Value.(*thing).value.(T)
	if !ok {
		return none, errUnknown
	}
	t.used.MoveToFront(e)
	return v, nil
}
