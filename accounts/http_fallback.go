package accounts

import (
	"bytes"
	"errors"
	"html/template"
	"maps"
	"mime"
	"net/http"
	"net/url"
	"slices"
	"strings"

	"lyceum/matrix"
	"lyceum/platform/db"
	"lyceum/platform/web"
)

// fallbackPage lets a browser pass one stage for a client that does not support it (Client-Server API, "Fallback"). Afterwards the
// page notifies the client by onAuthDone or by a message.
var fallbackPage = template.Must(template.New("fallback").Parse(`<!DOCTYPE html>
<html lang="en"><head><meta charset="utf-8"><meta name="viewport" content="width=device-width, initial-scale=1">
<title>Authentication</title>
<style>body{font:16px/1.5 system-ui,sans-serif;max-width:32rem;margin:3rem auto;padding:0 1rem}
input,button{font:inherit;padding:.4rem .8rem;margin:.3rem 0}.wrong{color:#a00}</style>
</head><body>
{{if .Done}}<h1>Done</h1><p>You can close this window and go on in your client.</p>
<script>if (window.onAuthDone) { window.onAuthDone(); } else if (window.opener) { window.opener.postMessage("authDone", "*"); }</script>
{{else if .Refused}}<h1>This did not work</h1><p class="wrong">{{.Refused}}</p>
{{else if not .Known}}<h1>This link has run out</h1><p>Go back to your client and begin again.</p>
{{else}}<h1>{{.Title}}</h1>{{if .Wrong}}<p class="wrong">{{.Wrong}}</p>{{end}}
<form method="post"><input type="hidden" name="session" value="{{.Session}}">
{{range .Documents}}<p><a href="{{.URL}}" target="_blank" rel="noopener noreferrer">{{.Name}}</a></p>
{{end}}{{if eq .Type "m.login.registration_token"}}<p><label>Registration token<br>
<input name="token" autocomplete="off" autofocus></label></p>
{{else if eq .Type "m.login.password"}}<p><label>Password<br>
<input name="password" type="password" autocomplete="current-password" autofocus></label></p>
{{end}}<button type="submit">{{if .Documents}}I accept{{else}}Continue{{end}}</button></form>
{{end}}</body></html>
`))

type fallbackData struct {
	Type, Session, Title, Wrong string
	Refused                     string // why the request was refused as a whole
	Done, Known                 bool
	Documents                   []TermIn
}

func (a *Accounts) getFallback(r *web.Request) (any, error) {
	return a.fallback(r, r.QueryParam("session"), nil)
}

func (a *Accounts) postFallback(r *web.Request) (any, error) {
	body, err := r.Raw()
	if err != nil {
		return nil, err
	}
	if !slices.Contains(fallbackStages, r.Path("type")) {
		return nil, errNoFallback
	}
	form, err := a.parseForm(r, body)
	if err != nil {
		return nil, err
	}
	return a.fallback(r, form.Get("session"), &authData{Type: r.Path("type"), Password: form.Get("password"), Token: form.Get("token")})
}

// refuseFallback is the Page of the routes.
func (a *Accounts) refuseFallback(_ *web.Request, status int, message string) (*web.Raw, error) {
	return showFallback(status, fallbackData{Refused: message})
}

// fallbackStages are the stages that have a page.
var fallbackStages = []string{stageTerms, stageToken, stagePassword, stageDummy}

var errNoFallback = matrix.NotFound("There is no such authentication type")

// parseForm parses the body of a form that a browser sent from a page of this server, or a program that is no browser. Errors:
// M_FORBIDDEN for a page of another site, M_INVALID_PARAM for what is no form.
func (a *Accounts) parseForm(r *web.Request, body []byte) (url.Values, error) {
	if err := a.sameSite().Check(r.Request); err != nil {
		return nil, matrix.Forbidden("The form was sent from a page of another site: open the page here and send it again").With(err)
	}
	kind, params, err := mime.ParseMediaType(r.Header.Get("Content-Type"))
	if charset := params["charset"]; err != nil || kind != formType || charset != "" && !strings.EqualFold(charset, "utf-8") {
		return nil, matrix.InvalidParam("The form must be sent as " + formType + " in UTF-8")
	}
	form, err := url.ParseQuery(string(body))
	if err != nil {
		return nil, matrix.InvalidParam("The body must be a form")
	}
	return form, nil
}

const formType = "application/x-www-form-urlencoded"

// sameSite lets requests of a browser through that come from a page of this server.
func (a *Accounts) sameSite() *http.CrossOriginProtection {
	p := http.NewCrossOriginProtection()
	if u, err := url.Parse(a.config.WellKnown.Client); err == nil && u.Host != "" {
		_ = p.AddTrustedOrigin(u.Scheme + "://" + u.Host) // behind a proxy that writes another Host
	}
	return p
}

// fallback tries to pass the stage with the form that was sent, nil for none, and renders the page.
func (a *Accounts) fallback(r *web.Request, session string, sent *authData) (any, error) {
	page := fallbackData{Type: r.Path("type"), Session: session}
	switch page.Type {
	case stageTerms:
		page.Title = "Please read and accept"
		page.Documents = a.termTexts()
	case stageToken, stagePassword, stageDummy:
		page.Title = "Please confirm"
	default:
		return nil, errNoFallback
	}
	i, err := loadInteraction(r.Context(), a.db, session, a.nowMs())
	switch {
	case errors.Is(err, db.ErrNoRows) || err == nil && !i.offers(page.Type):
		return showFallback(http.StatusBadRequest, page)
	case err != nil:
		return nil, err
	}
	page.Known, i.from = true, r.RemoteIP()
	if sent == nil {
		return showFallback(http.StatusOK, page)
	}
	if err := a.passStage(r.Context(), i, sent); err != nil {
		var refused *matrix.Error
		if !errors.As(err, &refused) {
			return nil, err
		}
		page.Wrong = refused.Message
		return showFallback(refused.Status, page)
	}
	if err := a.saveInteraction(r.Context(), i); err != nil {
		return nil, err
	}
	page.Done = true
	return showFallback(http.StatusOK, page)
}

// termTexts returns each document of the terms in one language, preferably English.
func (a *Accounts) termTexts() []TermIn {
	var out []TermIn
	for _, id := range slices.Sorted(maps.Keys(a.config.Terms)) {
		texts := a.config.Terms[id].Texts
		text, ok := texts["en"]
		if !ok {
			text = texts[slices.Sorted(maps.Keys(texts))[0]]
		}
		out = append(out, text)
	}
	return out
}

func showFallback(status int, page fallbackData) (*web.Raw, error) {
	var b bytes.Buffer
	if err := fallbackPage.Execute(&b, page); err != nil {
		return nil, err
	}
	policy := "default-src 'none'; style-src 'unsafe-inline'; script-src 'unsafe-inline'; form-action 'self'; base-uri 'none'; " +
		"frame-ancestors 'none'"
	return &web.Raw{Status: status, Body: b.Bytes(), Header: pageHeader(policy)}, nil
}

// pageHeader is the header of a page with a form and the given Content-Security-Policy. A browser that is told to send no referrer at
// all also hides from which page a form comes.
func pageHeader(policy string) http.Header {
	return http.Header{
		"Content-Type":            {"text/html; charset=utf-8"},
		"Content-Security-Policy": {policy},
		"X-Content-Type-Options":  {"nosniff"},
		"X-Frame-Options":         {"DENY"},
		"Referrer-Policy":         {"same-origin"},
		"Cache-Control":           {"no-store"},
	}
}
