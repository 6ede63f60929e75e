package rpc_test

import (
	"context"
	"errors"
	"net"
	"testing"
	"time"

	"lyceum/platform/rpc"
)

type plain struct{}

func (plain) Encode(err error) []byte  { return []byte(err.Error()) }
func (plain) Decode(data []byte) error { return errors.New(string(data)) }

func node(t *testing.T) *rpc.Node {
	t.Helper()
	n, err := rpc.New(rpc.Options{Secret: []byte("a secret of a test fleet"), Errors: plain{}})
	if err != nil {
		t.Fatal(err)
	}
	return n
}

func TestAPausedProcessCountsAsUnreachable(t *testing.T) {
	l, err := net.Listen("tcp", "127.0.0.1:0") // nobody accepts, as in a process that is stopped by a signal
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	ctx, cancel := context.WithTimeout(t.Context(), 20*time.Second)
	defer cancel()
	began := time.Now()
	_, err = rpc.Call[string, string](ctx, node(t), l.Addr().String(), "hello", "x")
	if !errors.Is(err, rpc.ErrUnreachable) {
		t.Errorf("after %s: %v, expected %v", time.Since(began), err, rpc.ErrUnreachable)
	}
}
