// Command images builds every image of a deployment without a registry or a container engine: static binaries, each alone in an image from scratch with its list of components
// (CycloneDX), written as archives that `docker load`, `ctr images import` and `kind load image-archive` take. The same sources give the same bytes.
//
//	go -C deploy/images run . -o /tmp/images
package main

import (
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strings"
)

// natsModule is the NATS server, at the version that the services are tested with.
const natsModule = "github.com/nats-io/nats-server/v2"

// image is one image: programs, of which the first is what it runs.
type image struct {
	name     string
	programs []program
	testOnly bool
}

// program is a main package: of this repository, or the NATS server's.
type program struct {
	name    string
	module  string // folder of its module below the repository's root; "" is the root
	pkg     string // below that; "" for the NATS server
	version string // what the component list says of it; "" is the image's tag
}

var mimimi = program{name: "mimimi", pkg: "./cmd/mimimi"}

var images = []image{
	{name: "hub", programs: []program{{name: "hub", pkg: "./services/hub/cmd/hub"}}},
	{name: "kpstore", programs: []program{{name: "kpstore", pkg: "./services/kpstore/cmd/kpstore"}}},
	{name: "fanout", programs: []program{{name: "fanout", pkg: "./services/fanout/cmd/fanout"}}},
	{name: "provider", programs: []program{{name: "provider", pkg: "./services/provider/cmd/provider"}}},
	{name: "mimimi", programs: []program{mimimi}},
	{name: "collector", programs: []program{{name: "collector", module: "deploy/collector", pkg: "."}}},
	{name: "nats", programs: []program{{name: "nats-server"}}},
	{name: "visitor", programs: []program{{name: "visitor", pkg: "./test/k8s/visitor"}, mimimi}, testOnly: true},
}

// options are the flags.
type options struct {
	root, out, prefix, tag, arch string
	test                         bool
	only                         string
}

func main() {
	var o options
	flag.StringVar(&o.out, "o", "", "folder for the archives and component lists (required)")
	flag.StringVar(&o.root, "root", "../..", "the repository")
	flag.StringVar(&o.prefix, "prefix", "mimimi.example/", "what image names begin with")
	flag.StringVar(&o.tag, "tag", "dev", "tag of the images; NATS has its version")
	flag.StringVar(&o.arch, "arch", runtime.GOARCH, "processor architecture")
	flag.StringVar(&o.only, "only", "", "build this image alone")
	flag.BoolVar(&o.test, "test", false, "also build the image that deploy/k8s is tested with")
	flag.Parse()
	if o.out == "" || flag.NArg() > 0 {
		flag.Usage()
		os.Exit(2)
	}
	if err := o.run(); err != nil {
		fmt.Fprintln(os.Stderr, "images:", err)
		os.Exit(1)
	}
}

func (o *options) run() error {
	out, err := filepath.Abs(o.out)
	if err != nil {
		return err
	}
	if err := os.MkdirAll(out, 0o755); err != nil {
		return err
	}
	work, err := os.MkdirTemp("", "images-")
	if err != nil {
		return err
	}
	err = o.buildAll(work, out)
	return errors.Join(err, os.RemoveAll(work))
}

func (o *options) buildAll(work, out string) error {
	nats, err := o.natsVersion()
	if err != nil {
		return err
	}
	for _, i := range images {
		if o.only != "" && o.only != i.name || o.only == "" && i.testOnly && !o.test {
			continue
		}
		name := o.prefix + i.name + ":" + o.tag
		var files []file
		for _, p := range i.programs {
			p.version = o.tag
			if p.pkg == "" {
				p.version = nats
				name = o.prefix + i.name + ":" + strings.TrimPrefix(nats, "v")
			}
			binary := filepath.Join(work, p.name)
			if err := o.build(p, binary); err != nil {
				return fmt.Errorf("build %s: %w", p.name, err)
			}
			list, err := components(binary, p)
			if err != nil {
				return fmt.Errorf("list the components of %s: %w", p.name, err)
			}
			if err := os.WriteFile(filepath.Join(out, p.name+".cdx.json"), list, 0o644); err != nil {
				return err
			}
			files = append(files, file{name: p.name, from: binary, mode: 0o755}, file{name: p.name + ".cdx.json", content: list, mode: 0o444})
		}
		archive := filepath.Join(out, i.name+".tar")
		if err := pack(archive, name, o.arch, files); err != nil {
			return fmt.Errorf("pack %s: %w", i.name, err)
		}
		fmt.Println(name, archive)
	}
	return nil
}

// build makes one static binary, unless a second image has it too and it is there.
func (o *options) build(p program, to string) error {
	if _, err := os.Stat(to); err == nil {
		return nil
	}
	dir, pkg := filepath.Join(o.root, p.module), p.pkg
	if pkg == "" {
		var module struct{ Dir string }
		if err := o.goJSON(&module, "mod", "download", "-json", natsModule+"@"+p.version); err != nil {
			return err
		}
		dir, pkg = module.Dir, "."
	}
	cmd := exec.Command("go", "build", "-trimpath", "-mod=readonly", "-ldflags=-s -w", "-o", to, pkg)
	cmd.Dir, cmd.Stderr = dir, os.Stderr
	cmd.Env = append(os.Environ(), "CGO_ENABLED=0", "GOOS=linux", "GOARCH="+o.arch)
	return cmd.Run()
}

// natsVersion is the version in the repository's go.mod.
func (o *options) natsVersion() (string, error) {
	var module struct{ Version string }
	err := o.goJSON(&module, "list", "-m", "-json", natsModule)
	return module.Version, err
}

func (o *options) goJSON(into any, args ...string) error {
	cmd := exec.Command("go", args...)
	cmd.Dir, cmd.Stderr = o.root, os.Stderr
	b, err := cmd.Output()
	if err != nil {
		return fmt.Errorf("go %s: %w", strings.Join(args, " "), err)
	}
	return json.Unmarshal(b, into)
}
