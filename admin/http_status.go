package admin

import (
	"net/http"
	"strings"

	"lyceum/ops/plan"
	"lyceum/platform/status"
	"lyceum/platform/web"
	"lyceum/ui"
)

// noStore keeps what a token was needed for out of every cache.
var noStore = http.Header{"Cache-Control": {"no-store"}}

func (a *Admin) getStatus(r *web.Request) (any, error) {
	_, now := a.sample(r.Context())
	return &web.Reply{Header: noStore, Value: now}, nil
}

func (a *Admin) getPlan(r *web.Request) (any, error) {
	before, now := a.sample(r.Context())
	p, err := a.plan(before, now)
	if err != nil {
		return nil, err
	}
	return &web.Reply{Header: noStore, Value: Compare(before, now, p)}, nil
}

func (a *Admin) plan(before, now *status.Fleet) (*plan.Plan, error) {
	l := LoadOf(before, now)
	if err := l.Validate(); err != nil {
		return nil, err
	}
	return toRunningShape(plan.Make(l, a.deps.Capacities, a.deps.Roles), now), nil
}

// diagnosis is the answer to GET doctor.
type diagnosis struct {
	Headline string  `json:"headline"`
	Seconds  float64 `json:"seconds"` // between the two samples; 0: since the start of the processes
	Findings any     `json:"findings"`
}

func (a *Admin) getDoctor(r *web.Request) (any, error) {
	before, now := a.sample(r.Context())
	p, err := a.plan(before, now)
	if err != nil {
		return nil, err
	}
	d := diagnosis{}
	if before != nil {
		d.Seconds = now.At.Sub(before.At).Seconds()
	}
	d.Headline, d.Findings = a.deps.Doctor(before, now, p)
	return &web.Reply{Header: noStore, Value: d}, nil
}

func getPage(r *web.Request) (any, error) {
	return serve(r, ui.Page("status")), nil
}

func getAsset(r *web.Request) (any, error) {
	f, ok := ui.Asset(r.Path("file"))
	if !ok {
		return nil, &web.Error{Status: http.StatusNotFound, Code: "M_NOT_FOUND", Message: "There is no such file"}
	}
	return serve(r, f), nil
}

// serve answers with a file, or with 304 when the browser has it (RFC 9110, 13.1.2).
func serve(r *web.Request, f ui.File) *web.Raw {
	header := http.Header{
		"Content-Type":                 {f.Type},
		"Etag":                         {f.Tag},
		"Cache-Control":                {"no-cache"},
		"Content-Security-Policy":      {ui.Policy},
		"Cross-Origin-Opener-Policy":   {"same-origin"},
		"Cross-Origin-Resource-Policy": {"same-origin"},
		"Referrer-Policy":              {"no-referrer"},
		"X-Content-Type-Options":       {"nosniff"},
		"X-Frame-Options":              {"DENY"},
	}
	if f.Fixed {
		header.Set("Cache-Control", "public, max-age=31536000, immutable")
	}
	for _, tag := range strings.Split(r.Header.Get("If-None-Match"), ",") {
		if strings.TrimPrefix(strings.TrimSpace(tag), "W/") == f.Tag {
			return &web.Raw{Status: http.StatusNotModified, Header: header}
		}
	}
	return &web.Raw{Header: header, Body: f.Body}
}
