package mimimi

// Rotation is the body of EnvelopeRotation: in a connection group, a user tells a contact its new connection key (§5). It says the same however often it comes; of two the
// one with the higher number holds, of two with one number, which only clients of one user that rotate at the same time can make, the one with the greater key.
type Rotation struct {
	// Number counts the user's connection keys. Requests and responses have none: they count as 0.
	Number uint64
	Key    ConnectionKey
	// Token, if set, replaces the token with which the contact claims the user's KeyPackages.
	Token *ConnectionToken
	// TokenWanted asks the contact for a new token of its own in place of the one that the user has.
	TokenWanted bool
}

// Marshal is the TLS encoding.
func (r *Rotation) Marshal() []byte {
	return encode(func(b *builder) {
		b.AddUint64(r.Number)
		b.AddBytes(r.Key.Bytes())
		addBool(b, r.Token != nil)
		if r.Token != nil {
			b.AddBytes(r.Token.Bytes())
		}
		addBool(b, r.TokenWanted)
	})
}

func (r *Rotation) read(s *input) bool {
	var hasToken bool
	if !s.ReadUint64(&r.Number) || !readSecret(s, &r.Key.secret) || !readBool(s, &hasToken) {
		return false
	}
	if hasToken {
		r.Token = new(ConnectionToken)
		if !readSecret(s, &r.Token.secret) {
			return false
		}
	}
	return readBool(s, &r.TokenWanted)
}

// ParseRotation reads the body. It returns ErrMalformed.
func ParseRotation(b []byte) (*Rotation, error) {
	r := new(Rotation)
	if err := decode(b, r.read); err != nil {
		return nil, err
	}
	return r, nil
}
