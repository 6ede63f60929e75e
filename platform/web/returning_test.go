package web

import (
	"errors"
	"net"
	"testing"
	"time"
)

// noticed tells when a connection was accepted.
type noticed struct {
	net.Listener
	accepted chan struct{}
}

func (l *noticed) Accept() (net.Conn, error) {
	c, err := l.Listener.Accept()
	if err == nil {
		l.accepted <- struct{}{}
	}
	return c, err
}

// TestAConnectionThatWasAcceptedIsServed closes a listener that has accepted a connection which nobody took yet.
func TestAConnectionThatWasAcceptedIsServed(t *testing.T) {
	for range 20 {
		inner, err := net.Listen("tcp", "127.0.0.1:0")
		if err != nil {
			t.Fatal(err)
		}
		l := &noticed{inner, make(chan struct{}, 1)}
		k := newReturningListener(l, 0, 0)
		client, err := net.Dial("tcp", inner.Addr().String())
		if err != nil {
			t.Fatal(err)
		}
		<-l.accepted
		if err := k.Close(); err != nil {
			t.Fatal(err)
		}
		c, err := k.Accept()
		if err != nil {
			t.Fatalf("the connection was accepted before the end, and is lost: %v", err)
		}
		if c, err := k.Accept(); !errors.Is(err, net.ErrClosed) {
			t.Errorf("after the end: %v %v", c, err)
		}
		_, _ = c.Close(), client.Close()
	}
}

// TestAnIdleConnectionIsClosedOnlyWhenNothingCame looks at a connection between two requests while a server ends.
func TestAnIdleConnectionIsClosedOnlyWhenNothingCame(t *testing.T) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	client, err := net.Dial("tcp", l.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	defer client.Close()
	conn, err := l.Accept()
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	if _, err := client.Write([]byte("G")); err != nil {
		t.Fatal(err)
	}
	for !hasBytes(conn) {
		time.Sleep(time.Millisecond)
	}
	idle := &connection{conn: conn}
	idle.state.Store(connectionIdle)
	if idle.isHandled() {
		t.Error("a request came, and its connection was closed")
	}
	var b [1]byte
	if _, err := conn.Read(b[:]); err != nil {
		t.Fatal(err)
	}
	if !idle.isHandled() {
		t.Error("nothing is under way")
	}
	if _, err := conn.Read(b[:]); !errors.Is(err, net.ErrClosed) {
		t.Errorf("an unused connection is open: %v", err)
	}
}
