package oblivious

// sizeClasses are the lengths that a plaintext is padded to. The top one leaves room below the bus's 8 MiB for the relay's framing; the steps of four keep the
// classes few, since a class says something about the content. A message that fits none is refused.
var sizeClasses = [...]int{1 << 10, 4 << 10, 16 << 10, 64 << 10, 256 << 10, 1 << 20, 4 << 20, 7 << 20}

const (
	// requestOverhead is RFC 9458's header (7), X25519's encapsulated key (32) and AES-128-GCM's tag (16).
	requestOverhead = 7 + 32 + 16
	// responseOverhead is the response nonce (16) and the tag (16).
	responseOverhead = 16 + 16
)

// maxPlaintext is the largest padded request or response.
const maxPlaintext = 7 << 20

// classOf is the smallest class that n bytes fit in, 0 if none.
func classOf(n int) int {
	for _, c := range sizeClasses {
		if n <= c {
			return c
		}
	}
	return 0
}

// isClass says whether a ciphertext of n bytes has the length of a class.
func isClass(n, overhead int) bool { return n > overhead && classOf(n-overhead) == n-overhead }
