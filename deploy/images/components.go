package main

import (
	"bytes"
	"debug/buildinfo"
	"runtime/debug"

	cdx "github.com/CycloneDX/cyclonedx-go"
)

// components is the CycloneDX list of what a binary was linked from, as the linker noted it: every module with its version, and the standard library.
func components(binary string, p program) ([]byte, error) {
	info, err := buildinfo.ReadFile(binary)
	if err != nil {
		return nil, err
	}
	bom := cdx.NewBOM()
	bom.Metadata = &cdx.Metadata{Component: &cdx.Component{
		BOMRef: p.name, Type: cdx.ComponentTypeApplication, Name: p.name, Version: p.version, PackageURL: purl(info.Main.Path, p.version),
	}}
	list := []cdx.Component{library("std", info.GoVersion)}
	for _, m := range info.Deps {
		list = append(list, component(m))
	}
	bom.Components = &list
	var out bytes.Buffer
	e := cdx.NewBOMEncoder(&out, cdx.BOMFileFormatJSON)
	e.SetPretty(true)
	if err := e.EncodeVersion(bom, cdx.SpecVersion1_6); err != nil {
		return nil, err
	}
	return out.Bytes(), nil
}

// component is a module, or what stands in its place.
func component(m *debug.Module) cdx.Component {
	if m.Replace != nil {
		m = m.Replace
	}
	return library(m.Path, m.Version)
}

func library(path, version string) cdx.Component {
	url := purl(path, version)
	return cdx.Component{BOMRef: url, Type: cdx.ComponentTypeLibrary, Name: path, Version: version, PackageURL: url}
}

// purl is a package's URL.
func purl(path, version string) string { return "pkg:golang/" + path + "@" + version }
