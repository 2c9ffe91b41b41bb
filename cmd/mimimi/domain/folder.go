package domain

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/json"
	"encoding/pem"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"math/big"
	"os"
	"path/filepath"
	"time"

	bolt "go.etcd.io/bbolt"
	bolterrors "go.etcd.io/bbolt/errors"

	"mimimi.example/pkg/mimimi"
	"mimimi.example/pkg/oblivious"
)

// certificateLife is how long the folder's own TLS certificates last: long enough that a development domain is not found dead.
const certificateLife = 5 * 365 * 24 * time.Hour

// lockWait is how long a start waits for a process that is just ending.
const lockWait = time.Second

// listeners are the provider's three listeners; each has a host name, a key and a certificate of its own.
var listeners = []string{"account", "anonymous", "federation"}

// sealedServices are the services that open requests themselves (RFC 9458).
var sealedServices = []string{"hub", "kpstore", "inbox"}

// folder is the state of one domain on disk.
//
//	lock          held while a process runs the domain
//	domain.json   the domain's name and the addresses it listened on last, so that a restart keeps them
//	keys/         identity, queue, OHTTP and deployment keys
//	tls/          the domain's own certificate authority and the listeners' certificates
//	nats/         JetStream
//	peers/        what it knows of other domains
//	client.json   what a client needs to register here
//	peer.json     what another domain needs to federate with this one
type folder struct{ dir string }

func (f folder) path(parts ...string) string {
	return filepath.Join(append([]string{f.dir}, parts...)...)
}

// state is domain.json.
type state struct {
	Domain    string            `json:"domain"`
	Addresses map[string]string `json:"addresses"` // by listener
}

// open makes what is missing and returns the folder's state. It fails if the folder is another domain's.
func (f folder) open(domain string) (*state, error) {
	for _, d := range []string{"", "keys", "tls", "nats", "peers"} {
		if err := os.MkdirAll(f.path(d), 0o700); err != nil {
			return nil, err
		}
	}
	st := &state{Domain: domain, Addresses: make(map[string]string)}
	b, err := os.ReadFile(f.path("domain.json"))
	switch {
	case err == nil:
		if err := json.Unmarshal(b, st); err != nil {
			return nil, fmt.Errorf("read domain.json: %w", err)
		}
		if st.Domain != domain {
			return nil, errors.New("this folder holds another domain: name its domain, or another folder")
		}
	case !errors.Is(err, fs.ErrNotExist):
		return nil, err
	}
	return st, errors.Join(f.makeKeys(), f.makeCertificates(domain))
}

// lock lets one process at a time run the folder's domain: a second server on the same streams would destroy them. The operating system frees the lock however
// the process ends. The file is bbolt's only because bbolt locks files on every platform; it holds nothing.
func (f folder) lock() (io.Closer, error) {
	if err := os.MkdirAll(f.dir, 0o700); err != nil {
		return nil, err
	}
	db, err := bolt.Open(f.path("lock"), 0o600, &bolt.Options{Timeout: lockWait})
	if errors.Is(err, bolterrors.ErrTimeout) {
		return nil, errors.New("another process runs the domain of this folder: stop it first, or name another folder")
	}
	if err != nil {
		return nil, fmt.Errorf("lock the folder: %w", err)
	}
	return db, nil
}

// makeKeys makes the keys that are missing. Each is written once and never again.
func (f folder) makeKeys() error {
	identity := func() ([]byte, error) {
		k, err := mimimi.Suite.GenerateSignatureKey()
		if err != nil {
			return nil, err
		}
		return k.MarshalBinary()
	}
	random := func() ([]byte, error) {
		b := make([]byte, 32)
		_, err := rand.Read(b)
		return b, err
	}
	errs := []error{f.once("keys/identity.key", identity), f.once("keys/queue.secret", random), f.once("keys/deployment.key", random)}
	for i, s := range sealedServices {
		errs = append(errs, f.makeOHTTPKey(s, uint8(i+1)))
	}
	return errors.Join(errs...)
}

// makeOHTTPKey makes one service's key; its public configuration is derived again at each start.
func (f folder) makeOHTTPKey(service string, keyID uint8) error {
	name := "keys/ohttp-" + service + ".key"
	if err := f.once(name, func() ([]byte, error) {
		secret, _, err := oblivious.GenerateKey(keyID)
		return secret, err
	}); err != nil {
		return err
	}
	secret, err := os.ReadFile(f.path(name))
	if err != nil {
		return err
	}
	config, err := oblivious.PublicConfig(secret)
	if err != nil {
		return err
	}
	return writeFile(f.path("keys", "ohttp-"+service+".pub"), config)
}

// oldQueueKeys are the queue keys of folders that were made before keys were derived from a secret: what was sealed to them is still opened.
func (f folder) oldQueueKeys() map[uint32]string {
	path := f.path("keys", "queue-1.key")
	if _, err := os.Stat(path); err != nil {
		return nil
	}
	return map[uint32]string{1: path}
}

// once writes a file if it does not exist.
func (f folder) once(name string, make func() ([]byte, error)) error {
	if _, err := os.Stat(f.path(name)); err == nil || !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	b, err := make()
	if err != nil {
		return err
	}
	return writeFile(f.path(name), b)
}

// Prepare makes what a deployment of separate programs has once, in a folder that may hold some of it: keys/, tls/ (an authority and certificates of its own, unless there are
// certificates), and client.json and peer.json for clients and other domains, who reach the listeners at their host names and port 443.
func Prepare(dir, domain string) error {
	d := &Domain{o: Options{Domain: domain}, folder: folder{dir}, state: &state{Addresses: make(map[string]string)}}
	for _, sub := range []string{"keys", "tls"} {
		if err := os.MkdirAll(d.folder.path(sub), 0o700); err != nil {
			return err
		}
	}
	for _, l := range listeners {
		d.state.Addresses[l] = ":443"
	}
	if b, err := os.ReadFile(d.PeerFile()); err == nil {
		var old peerFile
		if err := json.Unmarshal(b, &old); err != nil || old.Domain != domain {
			return errors.New("this folder holds another domain: name its domain, or another folder")
		}
	}
	if err := errors.Join(d.folder.makeKeys(), d.folder.makeCertificates(domain)); err != nil {
		return err
	}
	return d.publishFiles()
}

// writeFile replaces a file as a whole: a crash leaves the old one or the new one.
func writeFile(name string, b []byte) error {
	tmp, err := os.CreateTemp(filepath.Dir(name), ".new-*")
	if err != nil {
		return err
	}
	_, err = tmp.Write(b)
	if err = errors.Join(err, tmp.Sync(), tmp.Close()); err == nil {
		err = os.Rename(tmp.Name(), name)
	}
	if err != nil {
		return errors.Join(err, os.Remove(tmp.Name()))
	}
	dir, err := os.Open(filepath.Dir(name)) // the new name must outlive a power cut too: a lost deployment key loses every stream
	if err != nil {
		return err
	}
	return errors.Join(dir.Sync(), dir.Close())
}

// writeJSON writes a value as indented JSON.
func writeJSON(name string, v any) error {
	b, err := json.MarshalIndent(v, "", "  ")
	if err != nil {
		return err
	}
	return writeFile(name, append(b, '\n'))
}

// makeCertificates makes the domain's certificate authority and one certificate for each listener, if they are missing.
func (f folder) makeCertificates(domain string) error {
	if _, err := os.Stat(f.path("tls", "federation.pem")); err == nil || !errors.Is(err, fs.ErrNotExist) {
		return err // federation's is written last
	}
	caKey, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return err
	}
	ca := template(domain + " (mimimi development authority)")
	ca.IsCA, ca.BasicConstraintsValid, ca.MaxPathLenZero = true, true, true
	ca.KeyUsage = x509.KeyUsageCertSign
	caDER, err := x509.CreateCertificate(rand.Reader, ca, ca, &caKey.PublicKey, caKey)
	if err != nil {
		return err
	}
	if err := writeFile(f.path("tls", "ca.pem"), pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: caDER})); err != nil {
		return err
	}
	for _, l := range listeners {
		if err := f.makeCertificate(l, domain, ca, caKey); err != nil {
			return err
		}
	}
	return nil
}

func (f folder) makeCertificate(listener, domain string, ca *x509.Certificate, caKey *ecdsa.PrivateKey) error {
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return err
	}
	host := listener + "." + domain
	c := template(host)
	c.DNSNames = []string{host}
	c.KeyUsage = x509.KeyUsageDigitalSignature
	c.ExtKeyUsage = []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth}
	if listener == "federation" {
		c.ExtKeyUsage = append(c.ExtKeyUsage, x509.ExtKeyUsageClientAuth)
	}
	der, err := x509.CreateCertificate(rand.Reader, c, ca, &key.PublicKey, caKey)
	if err != nil {
		return err
	}
	keyDER, err := x509.MarshalPKCS8PrivateKey(key)
	if err != nil {
		return err
	}
	if err := writeFile(f.path("tls", listener+".key"), pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: keyDER})); err != nil {
		return err
	}
	return writeFile(f.path("tls", listener+".pem"), pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der}))
}

// template is what all certificates of a folder share.
func template(name string) *x509.Certificate {
	serial, err := rand.Int(rand.Reader, new(big.Int).Lsh(big.NewInt(1), 120))
	if err != nil {
		panic("domain: the system's random generator failed") // crypto/rand never fails on supported systems
	}
	now := time.Now()
	return &x509.Certificate{
		SerialNumber: serial, Subject: pkix.Name{CommonName: name},
		NotBefore: now.Add(-time.Hour), NotAfter: now.Add(certificateLife),
	}
}
