package accounts

import (
	"bytes"
	"context"
	"encoding/json"
	"net/http"

	"lyceum/matrix"
	"lyceum/platform/web"
)

// requestBodyKey is of the whole body of a request in its context.
type requestBodyKey struct{}

// requestBodyOf gives the whole body of the request as canonical JSON, nil for a handler that is not wrapped.
func requestBodyOf(ctx context.Context) []byte {
	body, _ := ctx.Value(requestBodyKey{}).([]byte)
	return body
}

// Resumable makes a handler of an operation that calls Interactive. Its body is that of the request, or, when the client sends nothing
// but auth with the session, what the operation was begun with. A request that is repeated because its answer was lost gets it again,
// without being done twice. params of Interactive must encode to an object that decodes to the body.
func Resumable[Body any](a *Accounts, fn func(r *web.Request, body *Body) (any, error)) web.Handler {
	return func(r *web.Request) (any, error) {
		begin := func(session string) *interaction {
			return &interaction{id: session, op: r.Method + " " + r.URL.Path, userID: r.UserID(), from: r.RemoteIP()}
		}
		return resume(a, r, begin, false, fn)
	}
}

// resume is Resumed with what an interaction is for. merge takes of what was remembered also what a request leaves out that
// has other parameters.
func resume[Body any](
	a *Accounts, r *web.Request, begin func(session string) *interaction, merge bool, fn func(*web.Request, *Body) (any, error),
) (any, error) {
	text, err := r.Object()
	if err != nil {
		return nil, err
	}
	step, err := readResumption(text)
	if err != nil {
		return nil, err
	}
	body := new(Body)
	i := begin(step.session)
	if step.session != "" {
		canonical, err := matrix.CanonicalJSONLenient(text)
		if err != nil {
			return nil, matrix.BadJSON("The body can not be brought into canonical form").With(err)
		}
		r.Request = r.WithContext(context.WithValue(r.Context(), requestBodyKey{}, canonical))
		i.requestBody = canonical
		if answer, err := a.storedAnswer(r.Context(), i); err != nil || answer != nil {
			return answer, err
		}
		if step.authOnly || merge {
			old, err := a.storedParams(r.Context(), i)
			if err != nil {
				return nil, err
			}
			if old != nil && json.Unmarshal(old, body) != nil {
				body = new(Body) // another version has another body
			}
		}
	}
	if err := decode(text, body); err != nil {
		return nil, err
	}
	result, err := fn(r, body)
	if reply, ok := result.(*web.Reply); step.session != "" && (err != nil || ok && reply.Status >= http.StatusBadRequest) {
		// One that was sent before may have finished it meanwhile.
		if answer, lost := a.storedAnswer(r.Context(), i); lost == nil && answer != nil {
			return answer, nil
		}
	}
	return result, err
}

// decode gives a body that is JSON its form. Errors: M_BAD_JSON.
func decode(text []byte, body any) error {
	d := json.NewDecoder(bytes.NewReader(text))
	if err := d.Decode(body); err != nil {
		return matrix.BadJSON("A field of the body has the wrong type").With(err)
	}
	return nil
}

// Interactive asks the caller for a password before fn runs, as the endpoints for deleting devices,
// replacing cross-signing keys, changing the password and deactivating do. auth is the auth member of the
// body, nil when there is none. params is all else of the body that fn goes by, in a form that encodes to
// JSON: an authentication is taken for nothing but the user, the method, the path and the params that it was
// begun with. Until the caller has proved who they are the answer is 401 with the flows and a session. fn hands on
// the proof to what it does, where the password may be another by then.
func (a *Accounts) Interactive(r *web.Request, auth json.RawMessage, params any, fn func(p Proof) (any, error)) (any, error) {
	text, err := json.Marshal(params)
	if err != nil {
		return nil, err
	}
	if text, err = matrix.CanonicalJSONLenient(text); err != nil {
		return nil, matrix.BadJSON("The body can not be brought into canonical form").With(err)
	}
	start := func() *interaction {
		return &interaction{
			id: newSessionID(), op: r.Method + " " + r.URL.Path, userID: r.UserID(), params: text, from: r.RemoteIP(),
			flows: [][]string{{stagePassword}}, paramsBody: text, requestBody: requestBodyOf(r.Context()),
		}
	}
	return a.runInteraction(r.Context(), start, auth, func(i *interaction) (any, error) { return fn(i.proof) })
}
