package main

import (
	"io"

	"mimimi.example/cmd/mimimi/domain"
	"mimimi.example/pkg/mimimi"
)

// adminKeys makes a deployment's files.
type adminKeys struct {
	Domain string `required:"" help:"The deployment's domain."`
	Dir    string `required:"" type:"path" help:"Folder to write to: keys/, tls/, client.json and peer.json. What is there stays as it is: certificates of your own go into tls/ before."`
	JSON   bool   `help:"Print one JSON object."`
}

// Run makes what is missing.
func (a *adminKeys) Run(out io.Writer) error {
	if err := mimimi.CheckDomain(a.Domain); err != nil {
		return err
	}
	if err := domain.Prepare(a.Dir, a.Domain); err != nil {
		return err
	}
	return say(out, a.JSON, map[string]string{"folder": a.Dir}, "keys, certificates, client.json and peer.json are in %s", a.Dir)
}
