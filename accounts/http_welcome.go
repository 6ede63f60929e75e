package accounts

import (
	"bytes"
	"context"
	"crypto/sha256"
	"crypto/subtle"
	"encoding/base64"
	"errors"
	"html/template"
	"net/http"
	"net/url"
	"slices"

	"lyceum/matrix"
	"lyceum/platform/web"
)

const welcomeStyle = `:root{color-scheme:light dark}
body{font:1rem/1.5 system-ui,sans-serif;max-width:36rem;margin:2rem auto;padding:0 1rem;background:Canvas;color:CanvasText}
input,button{font:inherit;padding:.5rem .7rem;box-sizing:border-box}
input[type=text],input[type=password]{display:block;width:100%}
code{overflow-wrap:anywhere}
.wrong{border-left:.3rem solid #c33;padding-left:.7rem}
footer{margin-top:3rem;font-size:.9rem}`

// welcomePage introduces this server and registers accounts. It needs neither scripts nor resources of other servers.
var welcomePage = template.Must(template.New("welcome").Parse(`<!DOCTYPE html>
<html lang="en"><head><meta charset="utf-8"><meta name="viewport" content="width=device-width, initial-scale=1">
<title>{{.Server}}</title>
<style>` + welcomeStyle + `</style>
</head><body>
<main>
<h1>{{.Server}}</h1>
{{if .Made}}<h2>Your account is ready</h2>
<p>Your Matrix ID is <code>{{.Made}}</code>.</p>
<p>Next step: open a Matrix client and log in with this ID and your password.
If the client asks for a homeserver, enter <code>{{.Homeserver}}</code>.</p>
{{else}}{{if .Refused}}<p class="wrong" role="alert">{{.Refused}}</p>
{{end}}<p>This is a <a href="https://matrix.org/">Matrix</a> homeserver:
people with an account here can chat with each other. It runs Lyceum.</p>
{{end}}<h2>Connect a client</h2>
<p>In your Matrix client, choose to log in at another server and enter this homeserver:</p>
<p><code>{{.Homeserver}}</code></p>
<p>Clients are, for example, Element, Cinny, FluffyChat, Nheko, NeoChat and Fractal, and iamb for the terminal.</p>
{{if not .Made}}<h2>Make an account</h2>
{{if eq .Registration "closed"}}<p>Registration is closed: the administrators of this server make the accounts.</p>
{{else}}{{if eq .Registration "open"}}<p>Registration is open to everybody.</p>
{{else}}<p>You need a registration token, which the administrators of this server give out.</p>
{{end}}{{if .Wrong}}<p class="wrong" role="alert"><strong>The account was not made.</strong> {{.Wrong}}</p>
{{end}}<form method="post" action="/">
<p><label>User name
<input type="text" name="username" value="{{.Username}}" autocomplete="username" autocapitalize="none" spellcheck="false"
required></label></p>
<p><label>Password, at least {{.MinLength}} characters
<input type="password" name="password" autocomplete="new-password" required></label></p>
<p><label>Registration token{{if eq .Registration "open"}}, if you have one{{end}}
<input type="text" name="token" value="{{.Token}}" autocomplete="off" autocapitalize="none" spellcheck="false"
{{- if ne .Registration "open"}} required{{end}}></label></p>
{{if .Documents}}<p>Please read:</p>
<ul>{{range .Documents}}<li><a href="{{.URL}}" rel="noopener noreferrer">{{.Name}}</a></li>{{end}}</ul>
<p><label><input type="checkbox" name="accept" value="yes" required> I have read and accept these</label></p>
{{end}}<p><button type="submit">Make the account</button></p>
</form>
{{end}}{{end}}</main>
<footer><p>Administrators: <a href="/_lyceum/status">status of this server</a></p></footer>
</body></html>
`))

// welcomePolicy is the Content-Security-Policy of the page: its own style and its form.
var welcomePolicy = func() string {
	sum := sha256.Sum256([]byte(welcomeStyle))
	style := base64.StdEncoding.EncodeToString(sum[:])
	return "default-src 'none'; style-src 'sha256-" + style + "'; form-action 'self'; base-uri 'none'; frame-ancestors 'none'"
}()

type welcomeData struct {
	Server, Homeserver, Registration string
	MinLength                        int
	Documents                        []TermIn

	Username, Token, Wrong string // what was sent, and why it was refused
	Refused                string // why the page was refused as a whole
	Made                   string // the id of the new user
}

func (a *Accounts) welcomeData(r *web.Request) welcomeData {
	page := welcomeData{
		Server: a.config.ServerName, Homeserver: a.config.WellKnown.Client, Registration: a.config.Registration,
		MinLength: a.config.Password.MinLength, Documents: a.termTexts(),
	}
	if page.Homeserver == "" {
		scheme := r.Scheme()
		if r.Header.Get("X-Forwarded-Proto") == "https" { // also of a proxy that is not trusted: it is shown to nobody else
			scheme = "https"
		}
		page.Homeserver = scheme + "://" + r.Host
	}
	return page
}

// getWelcome shows the page; after a registration, to which postWelcome redirects, with the new user.
func (a *Accounts) getWelcome(r *web.Request) (any, error) {
	page := a.welcomeData(r)
	if made := r.QueryParam("made"); made != "" {
		sum, err := a.madeSum(r.Context(), made)
		if err != nil {
			return nil, err
		}
		if subtle.ConstantTimeCompare([]byte(sum), []byte(r.QueryParam("sum"))) == 1 { // else somebody made up the address of the page
			page.Made = made
		}
	}
	return showWelcome(http.StatusOK, page)
}

// madeSum is a checksum of the id of a user whom this server has just made.
func (a *Accounts) madeSum(ctx context.Context, userID string) (string, error) {
	sum, err := a.secret.mac(ctx, "made", userID)
	return base64.RawURLEncoding.EncodeToString(sum[:min(len(sum), 16)]), err
}

// refuseWelcome is the Page of the routes.
func (a *Accounts) refuseWelcome(r *web.Request, status int, message string) (*web.Raw, error) {
	page := a.welcomeData(r)
	if r.Method == http.MethodPost {
		page.Wrong = message
	} else {
		page.Refused = message
	}
	return showWelcome(status, page)
}

// postWelcome registers an account, and redirects to a page that says so, which may be loaded again.
func (a *Accounts) postWelcome(r *web.Request) (any, error) {
	body, err := r.Raw()
	if err != nil {
		return nil, err
	}
	form, err := a.parseForm(r, body)
	if err != nil {
		return nil, err
	}
	page := a.welcomeData(r)
	page.Username, page.Token = form.Get("username"), form.Get("token")
	made, err := a.registerByForm(r, page.Token, form.Get("accept") == "yes", &registration{
		Username: page.Username, Password: form.Get("password"), InhibitLogin: true,
	})
	if err != nil {
		var refused *matrix.Error
		if !errors.As(err, &refused) {
			return nil, err
		}
		if page.Wrong = refused.Message; refused.Code == matrix.CodeUserInUse {
			page.Wrong += ". If you have just made this account, you can log in with it."
		}
		return showWelcome(refused.Status, page)
	}
	sum, err := a.madeSum(r.Context(), made)
	if err != nil {
		return nil, err
	}
	header := pageHeader(welcomePolicy)
	header.Set("Location", "/?"+url.Values{"made": {made}, "sum": {sum}}.Encode())
	return &web.Raw{Status: http.StatusSeeOther, Header: header}, nil
}

// registerByForm passes all stages of a registration in one request.
func (a *Accounts) registerByForm(r *web.Request, token string, accepted bool, body *registration) (userID string, err error) {
	ctx, d := r.Context(), deviceOf(r, "", "", false)
	if a.config.Registration == ClosedRegistration {
		return "", matrix.Forbidden("Registration is closed")
	}
	if body.Username == "" {
		return "", matrix.MissingParam("A user name is needed")
	}
	if _, err := a.checkAvailable(ctx, body.Username); err != nil {
		return "", err
	}
	if err := a.checkNewPassword(body.Password); err != nil {
		return "", err
	}
	i := &interaction{id: newSessionID(), op: opRegister, from: d.From, flows: a.registrationFlows()}
	defer func() {
		if err == nil || !i.stored {
			return
		}
		if err := a.endInteraction(context.WithoutCancel(ctx), i); err != nil {
			a.log.Warn("a registration that failed keeps its token until it runs out", "error", err)
		}
	}()
	chosen := i.flows[0]
	for _, flow := range i.flows {
		if slices.Contains(flow, stageToken) == (token != "") {
			chosen = flow
		}
	}
	for _, stage := range chosen {
		if stage == stageTerms && !accepted {
			return "", matrix.InvalidParam("The documents must be accepted")
		}
		if err := a.passStage(ctx, i, &authData{Type: stage, Token: token}); err != nil {
			return "", err
		}
	}
	made, err := a.register(ctx, body, d, i)
	if err != nil {
		return "", err
	}
	return made.UserID, nil
}

func showWelcome(status int, page welcomeData) (*web.Raw, error) {
	var b bytes.Buffer
	if err := welcomePage.Execute(&b, page); err != nil {
		return nil, err
	}
	return &web.Raw{Status: status, Body: b.Bytes(), Header: pageHeader(welcomePolicy)}, nil
}
