package web

import (
	"log/slog"
	"net/http/httptest"
	"testing"

	sdktrace "go.opentelemetry.io/otel/sdk/trace"
	"go.opentelemetry.io/otel/sdk/trace/tracetest"
)

func TestRequestsJoinTheTraceOfTheirCaller(t *testing.T) {
	spans := tracetest.NewSpanRecorder()
	provider := sdktrace.NewTracerProvider(sdktrace.WithSpanProcessor(spans))
	s, err := New(Options{Log: slog.New(slog.DiscardHandler), Tracer: provider.Tracer("test")})
	if err != nil {
		t.Fatal(err)
	}
	s.Add(Route{Pattern: "GET /x/{id}", Auth: None, Role: "client", Handler: func(*Request) (any, error) { return nil, nil }})
	r := httptest.NewRequest("GET", "/x/1", nil)
	r.Header.Set("traceparent", "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01")
	s.Handler().ServeHTTP(httptest.NewRecorder(), r)
	ended := spans.Ended()
	if len(ended) != 1 || ended[0].Name() != "GET /x/{id}" || ended[0].SpanContext().TraceID().String() != "0af7651916cd43dd8448eb211c80319c" {
		t.Fatalf("expected one span in the caller's trace, found %v", ended)
	}
}
