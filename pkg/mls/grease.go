package mls

import "slices"

// isGREASE reports whether v is one of the values that RFC 9420 §13.5 reserves to keep extensibility alive. It is asked only of what this client
// sends: a receiver treats such a value as any other that it does not know.
func isGREASE[T ~uint16](v T) bool {
	return v&0x0f0f == 0x0a0a && byte(v>>8) == byte(v) && v != 0xfafa // which is for private use
}

var errGREASE = broken("13.5", "a GREASE value stands only in capabilities and in extensions of leaves, KeyPackages and GroupInfos")

// checkGREASE says whether a GREASE value of a proposal of our own stands where no receiver would ignore it.
func (p *Proposal) checkGREASE() error {
	if isGREASE(p.Type) {
		return errGREASE
	}
	return checkGroupGREASE(p.Extensions)
}

// checkGroupGREASE is checkGREASE for extensions of a GroupContext of our own, with what they require.
func checkGroupGREASE(exts []Extension) error {
	if slices.ContainsFunc(exts, func(e Extension) bool { return isGREASE(e.Type) }) {
		return errGREASE
	}
	data, ok := findExtension(exts, ExtensionRequiredCapabilities)
	if !ok {
		return nil
	}
	r, err := parseRequiredCapabilities(data)
	if err != nil {
		return err
	}
	if slices.ContainsFunc(r.extensions, isGREASE) || slices.ContainsFunc(r.proposals, isGREASE) || slices.ContainsFunc(r.credentials, isGREASE) {
		return errGREASE
	}
	return nil
}

// checkGREASE is that for a leaf of our own.
func (l *LeafNode) checkGREASE() error {
	if isGREASE(l.credential.Type) || slices.ContainsFunc(l.capabilities.Versions, isGREASE) {
		return errGREASE
	}
	return nil
}
