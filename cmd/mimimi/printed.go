package main

import (
	"encoding/binary"
	"errors"
	"io/fs"
	"os"
	"path/filepath"
)

// printedFile is the name of printed's file.
const printedFile = "printed"

// printed remembers which event listen printed last, in a file of the client's folder.
type printed struct {
	dir  string
	last uint64
	file *os.File
}

// load opens the file; after, if given, takes precedence over what it says.
func (p *printed) load(after *uint64) error {
	f, err := os.OpenFile(filepath.Join(p.dir, printedFile), os.O_RDWR|os.O_CREATE, 0o600)
	if errors.Is(err, fs.ErrNotExist) {
		return errors.New("no such folder: register first, or name the right one with -dir")
	}
	if err != nil {
		return err
	}
	p.file = f
	var b [8]byte
	if n, _ := f.ReadAt(b[:], 0); n == len(b) { // a short file is a new one
		p.last = binary.BigEndian.Uint64(b[:])
	}
	if after != nil {
		p.last = *after
	}
	return nil
}

// store writes the number of an event that was just printed.
func (p *printed) store(seq uint64) error {
	p.last = seq
	_, err := p.file.WriteAt(binary.BigEndian.AppendUint64(nil, seq), 0)
	return err
}
