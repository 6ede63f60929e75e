package rpc_test

import (
	"context"
	"testing"
	"time"

	sdktrace "go.opentelemetry.io/otel/sdk/trace"
	"go.opentelemetry.io/otel/sdk/trace/tracetest"
	"go.opentelemetry.io/otel/trace"

	"lyceum/platform/rpc"
)

// A call that two other processes pass on is one trace, in which each is below the one that called it.
func TestATraceGoesFromProcessToProcess(t *testing.T) {
	spans := tracetest.NewSpanRecorder()
	tracer := sdktrace.NewTracerProvider(sdktrace.WithSpanProcessor(spans)).Tracer("test")
	member := func() *rpc.Node {
		n, err := rpc.New(rpc.Options{Secret: []byte(secret), Errors: wire{}, Tracer: tracer})
		if err != nil {
			t.Fatal(err)
		}
		return n
	}
	near, middle, far := member(), member(), member()
	rpc.Handle(far, "far", echo)
	farAddr, _ := serve(t, far)
	rpc.Handle(middle, "middle", func(ctx context.Context, s string) (string, error) {
		return rpc.Call[string, string](ctx, middle, farAddr, "far", s)
	})
	middleAddr, _ := serve(t, middle)
	ctx, root := tracer.Start(t.Context(), "request")
	if got, err := rpc.Call[string, string](ctx, near, middleAddr, "middle", "hello"); err != nil || got != "hello" {
		t.Fatalf("%q %v", got, err)
	}
	root.End()
	found := map[string]sdktrace.ReadOnlySpan{}
	for began := time.Now(); found["middle"] == nil || found["far"] == nil; time.Sleep(time.Millisecond) { // a span may end behind the answer
		if time.Since(began) > 5*time.Second {
			t.Fatalf("expected spans of both processes, found %v", found)
		}
		for _, span := range spans.Ended() {
			found[span.Name()] = span
		}
	}
	for name, parent := range map[string]trace.SpanContext{"middle": root.SpanContext(), "far": found["middle"].SpanContext()} {
		got := found[name].Parent()
		if got.TraceID() != parent.TraceID() || got.SpanID() != parent.SpanID() || !got.IsRemote() {
			t.Errorf("%s is below %v, expected %v", name, got, parent)
		}
	}
}
