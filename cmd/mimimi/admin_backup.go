package main

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"time"

	"filippo.io/age"
	"google.golang.org/protobuf/proto"

	pb "mimimi.example/api/mimimi/v1"
	"mimimi.example/pkg/bus"
)

// backupTime bounds a backup or a restore of a whole deployment.
const backupTime = 24 * time.Hour

type adminBackupKey struct {
	Private string `required:"" type:"path" help:"File to write the private key to (age's identity), which restores. Keep it where nobody makes backups."`
	Public  string `required:"" type:"path" help:"File to write the public key to (age's recipient), which makes backups."`
	JSON    bool   `help:"Print one JSON object."`
}

// Run makes the keys. It overwrites none: without its key a backup is worth nothing.
func (a *adminBackupKey) Run(out io.Writer) error {
	key, err := age.GenerateHybridIdentity()
	if err != nil {
		return err
	}
	if err := writeNew(a.Private, []byte(key.String()+"\n")); err != nil {
		return err
	}
	if err := writeNew(a.Public, []byte(key.Recipient().String()+"\n")); err != nil {
		return err
	}
	return say(out, a.JSON, map[string]string{"private": a.Private, "public": a.Public}, "wrote %s, to be kept apart, and %s", a.Private, a.Public)
}

// writeNew writes a file that must not be there yet.
func writeNew(path string, content []byte) error {
	f, err := os.OpenFile(path, os.O_WRONLY|os.O_CREATE|os.O_EXCL, 0o600)
	if errors.Is(err, fs.ErrExist) {
		return fmt.Errorf("%s is there already: move it away, or choose another name", path)
	}
	if err != nil {
		return err
	}
	_, err = f.Write(content)
	return errors.Join(err, f.Close())
}

type adminBackup struct {
	adminFlags
	Key string `required:"" type:"path" help:"File of the public key that backup-key wrote, or of other recipients of age's."`
	Out string `required:"" type:"path" help:"File to write to. It must not be there yet."`
}

// Run writes a backup. One that fails leaves no file.
func (a *adminBackup) Run(ctx context.Context, out io.Writer, bar *progress) (err error) {
	recipients, err := keyFile(a.Key, age.ParseRecipients)
	if err != nil {
		return fmt.Errorf("public key: %w", err)
	}
	return a.audited(ctx, "backup", "", backupTime, func(ctx context.Context, b *bus.Bus) (err error) {
		f, err := os.OpenFile(a.Out, os.O_WRONLY|os.O_CREATE|os.O_EXCL, 0o600)
		if errors.Is(err, fs.ErrExist) {
			return fmt.Errorf("%s is there already: choose another name", a.Out)
		}
		if err != nil {
			return err
		}
		defer func() {
			err = errors.Join(err, f.Close())
			if err != nil {
				err = errors.Join(err, os.Remove(a.Out))
			}
		}()
		w, err := age.Encrypt(f, recipients...)
		if err != nil {
			return err
		}
		n, all := uint64(0), uint64(len(b.Streams()))
		if err := b.Backup(ctx, w, func(string) { bar.at(n, all); n++ }); err != nil {
			return err
		}
		bar.clear()
		if err := errors.Join(w.Close(), f.Sync()); err != nil {
			return err
		}
		return say(out, a.JSON, map[string]any{"streams": n, "file": a.Out}, "backed up %d streams to %s", n, a.Out)
	})
}

type adminRestore struct {
	adminFlags
	Key string `required:"" type:"path" help:"File of the private key that backup-key wrote."`
	In  string `required:"" type:"path" help:"The backup."`
}

// Run restores a backup onto empty servers. The whole file is read and checked before anything is written.
func (a *adminRestore) Run(ctx context.Context, out io.Writer, bar *progress) error {
	return a.onBusFor(ctx, backupTime, func(ctx context.Context, b *bus.Bus) error {
		if err := readBackup(a.In, a.Key, func(r io.Reader) error { _, err := io.Copy(io.Discard, r); return err }); err != nil {
			return err
		}
		var begun time.Time
		n, all := uint64(0), uint64(len(b.Streams()))
		err := readBackup(a.In, a.Key, func(r io.Reader) (err error) {
			begun, err = b.Restore(ctx, r, bus.RestoreOptions{Keep: restorable, Progress: func(string) { bar.at(n, all); n++ }})
			return err
		})
		if err != nil {
			return err
		}
		bar.clear()
		if err := b.Init(ctx); err != nil {
			return err
		}
		if err := a.record(ctx, b, "restore", "", nil); err != nil {
			return err
		}
		return say(out, a.JSON, map[string]any{"streams": n, "begun": begun.Format(time.RFC3339)}, "restored %d streams as of %s", n, begun.Format(time.RFC3339))
	})
}

// readBackup reads a backup file.
func readBackup(file, key string, read func(io.Reader) error) (err error) {
	identities, err := keyFile(key, age.ParseIdentities)
	if err != nil {
		return fmt.Errorf("private key: %w", err)
	}
	f, err := os.Open(file)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, f.Close()) }()
	r, err := age.Decrypt(f, identities...)
	if err != nil {
		return fmt.Errorf("the file is no backup, or not for this key: %w", err)
	}
	return read(r)
}

// maxKeyFile bounds a key file; a hybrid recipient has two thousand characters.
const maxKeyFile = 64 << 10

// keyFile reads a file of age's keys: those of backup-key, or the operator's own. age's errors on them quote what they could not read, so they are not passed on.
func keyFile[K any](path string, parse func(io.Reader) ([]K, error)) (keys []K, err error) {
	f, err := os.Open(path)
	if err != nil {
		return nil, err
	}
	defer func() { err = errors.Join(err, f.Close()) }()
	if keys, err = parse(io.LimitReader(f, maxKeyFile)); err != nil {
		return nil, errors.New("the file holds no such key of age's: name the one that backup-key wrote for this")
	}
	return keys, nil
}

// restorable says what a deployment may go on with: all but one-time KeyPackages, of which some have been handed out since the backup, and none may be twice. Their owners' clients
// see within an hour that they are gone, and make new ones.
func restorable(family string, data []byte) bool {
	if family != "kp.*.*.*" {
		return true
	}
	set := new(pb.KeyPackageSet)
	return proto.Unmarshal(data, set) == nil && set.LastResort
}

// restoreTo restores a backup to a scratch server as it was, for replay.
func restoreTo(ctx context.Context, b *bus.Bus, file, key string) error {
	return readBackup(file, key, func(r io.Reader) error {
		_, err := b.Restore(ctx, r, bus.RestoreOptions{Look: true, Only: func(stream string) bool {
			return bytes.HasPrefix([]byte(stream), []byte("GROUP_")) || stream == "OUTBOX" || stream == "DEAD"
		}})
		return err
	})
}
