package oblivious

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"

	"github.com/openpcc/ohttp/encoding"
	"github.com/openpcc/ohttp/encoding/bhttp"
)

var errFitsNoClass = errors.New("oblivious: the message fits no size class")

// padded reads a whole Binary HTTP message and appends zeros up to its class, which RFC 9292 §3.8 allows.
func padded(m *encoding.Message) (*encoding.Message, error) {
	if m.Chunked {
		return nil, errors.New("oblivious: only messages of known length are sealed")
	}
	b, err := io.ReadAll(io.LimitReader(m, maxPlaintext+1))
	if err != nil {
		return nil, fmt.Errorf("encode message: %w", err)
	}
	class := classOf(len(b))
	if class == 0 {
		return nil, errFitsNoClass
	}
	return &encoding.Message{Reader: bytes.NewReader(append(b, make([]byte, class-len(b))...)), MediaType: m.MediaType, ChunkLen: m.ChunkLen}, nil
}

// opened reads a whole message before anything of it is looked at: only then is it authentic.
func opened(r io.Reader, chunked bool) (io.Reader, error) {
	if chunked {
		return nil, errors.New("oblivious: chunked messages are not taken")
	}
	b, err := io.ReadAll(io.LimitReader(r, maxPlaintext+1))
	if err != nil {
		return nil, fmt.Errorf("open message: %w", err)
	}
	if len(b) > maxPlaintext {
		return nil, errFitsNoClass
	}
	return bytes.NewReader(b), nil
}

// The four halves of the library's codec, each with padding.
type (
	requestEncoder  struct{ encoding.RequestEncoder }
	requestDecoder  struct{ encoding.RequestDecoder }
	responseEncoder struct{ encoding.ResponseEncoder }
	responseDecoder struct{ encoding.ResponseDecoder }
)

func newRequestEncoder() (*requestEncoder, error) {
	e, err := bhttp.NewRequestEncoder()
	return &requestEncoder{e}, err
}

func newRequestDecoder() (*requestDecoder, error) {
	d, err := bhttp.NewRequestDecoder()
	return &requestDecoder{d}, err
}

func (e *requestEncoder) EncodeRequest(r *http.Request) (*encoding.Message, encoding.ResponseDecoder, error) {
	m, d, err := e.RequestEncoder.EncodeRequest(r)
	if err != nil {
		return nil, nil, err
	}
	m, err = padded(m)
	return m, responseDecoder{d}, err
}

func (d *requestDecoder) DecodeRequest(ctx context.Context, r io.Reader, chunked bool) (*http.Request, encoding.ResponseEncoder, error) {
	r, err := opened(r, chunked)
	if err != nil {
		return nil, nil, err
	}
	req, e, err := d.RequestDecoder.DecodeRequest(ctx, r, chunked)
	return req, responseEncoder{e}, err
}

func (e responseEncoder) EncodeResponse(ctx context.Context, r *http.Response) (*encoding.Message, error) {
	m, err := e.ResponseEncoder.EncodeResponse(ctx, r)
	if err != nil {
		return nil, err
	}
	return padded(m)
}

func (d responseDecoder) DecodeResponse(ctx context.Context, r io.Reader, chunked bool) (*http.Response, error) {
	r, err := opened(r, chunked)
	if err != nil {
		return nil, err
	}
	return d.ResponseDecoder.DecodeResponse(ctx, r, chunked)
}
