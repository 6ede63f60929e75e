package web

import (
	"io"
	"net/http"

	"github.com/klauspost/compress/gzip"
)

// Pieces is an answer in JSON of unknown size. Up to maxBufferedPieces bytes it is buffered: Write may still fail, and the client gets the
// error. A larger one is sent while it is written, compressed if the client accepts gzip, and its caller is charged for chargePerPieces
// bytes; when Write fails then, the connection is cut.
type Pieces struct {
	Write func(w io.Writer) error
}

const (
	maxBufferedPieces = 256 << 10
	chargePerPieces   = 2 << 20 // what is read ahead of the client, about
)

// spool is the writer of Write.
type spool struct {
	exchange *exchange
	buffered []byte
	out      io.Writer    // once it is sent as it comes
	packer   *gzip.Writer // of out, when it is packed
}

func (x *exchange) pieces(p *Pieces) error {
	s := &spool{exchange: x}
	defer s.end()
	if err := p.Write(s); err != nil {
		return err
	}
	if s.out == nil {
		if err := x.request.recheckIfOld(); err != nil {
			return err
		}
		x.write(message{body: s.buffered})
		return nil
	}
	if s.packer != nil {
		return s.packer.Close()
	}
	return nil
}

// Write is part of io.Writer.
func (s *spool) Write(p []byte) (int, error) {
	if s.out == nil {
		if len(s.buffered)+len(p) <= maxBufferedPieces {
			s.buffered = append(s.buffered, p...)
			return len(p), nil
		}
		if err := s.begin(); err != nil {
			return 0, err
		}
	}
	return s.out.Write(p)
}

// begin sends the head and what was written so far.
func (s *spool) begin() error {
	x := s.exchange
	if err := x.request.recheckIfOld(); err != nil {
		return err
	}
	if err := x.chargeAnswer(chargePerPieces); err != nil {
		return err
	}
	header := x.Header()
	header["Content-Type"] = typeJSON
	s.out = x
	if x.compressible(header, maxBufferedPieces) {
		header.Add("Vary", "Accept-Encoding")
		if acceptsGzip(x.request.Header) {
			header.Set("Content-Encoding", "gzip")
			s.packer = packers.Get().(*gzip.Writer)
			s.packer.Reset(x)
			s.out = s.packer
		}
	}
	x.WriteHeader(http.StatusOK)
	first := s.buffered
	s.buffered = nil
	_, err := s.out.Write(first)
	return err
}

func (s *spool) end() {
	if s.packer != nil {
		s.packer.Reset(nil) // the packer must not keep the request in memory
		packers.Put(s.packer)
	}
}
