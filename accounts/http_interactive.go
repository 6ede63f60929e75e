package accounts

import (
	"bytes"
	"context"
	"encoding/json"
	"net/http"

	"lyceum/matrix"
	"lyceum/platform/web"
)

// requestBodyKey is the key of the request's whole body in its context.
type requestBodyKey struct{}

// requestBodyOf returns the whole body of the request as canonical JSON, nil in a handler that Resumable does not wrap.
func requestBodyOf(ctx context.Context) []byte {
	body, _ := ctx.Value(requestBodyKey{}).([]byte)
	return body
}

// Resumable wraps the handler of an operation that calls Interactive. When the client sends only auth with a session, fn gets the
// body that the operation was begun with. A request that is repeated because its answer was lost gets the same answer without
// running again. params of Interactive must encode to an object that decodes to the body.
func Resumable[Body any](a *Accounts, fn func(r *web.Request, body *Body) (any, error)) web.Handler {
	return func(r *web.Request) (any, error) {
		begin := func(session string) *interaction {
			return &interaction{
				id: session, op: r.Method + " " + r.URL.Path, userID: r.UserID(), from: r.RemoteIP(), flows: [][]string{{stagePassword}},
			}
		}
		return resume(a, r, begin, false, fn)
	}
}

// resume is Resumable for an interaction that begin makes. With merge, members that the request leaves out are taken from the
// stored parameters also when the request has other parameters.
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
	if step.session == "" {
		return decoded(r, text, new(Body), fn)
	}
	i := begin(step.session)
	if i.requestBody, err = matrix.CanonicalJSONLenient(text); err != nil {
		return nil, matrix.BadJSON("The body can not be brought into canonical form").With(err)
	}
	r.Request = r.WithContext(context.WithValue(r.Context(), requestBodyKey{}, i.requestBody))
	until := a.now().Add(answerWait)
	if answer, _, err := a.awaitAnswer(r, i, until); err != nil || answer != nil {
		return answer, err
	}
	for {
		var result any
		body, known, err := new(Body), true, error(nil)
		if step.authOnly || merge {
			if body, known, err = storedBody[Body](r.Context(), a, i); err != nil {
				return nil, err
			}
		}
		if known || merge {
			result, err = decoded(r, text, body, fn)
		} else { // there are no parameters that fn could look at; where there are, runInteraction says it
			result, err = a.challenge(r.Context(), begin(newSessionID()), errNoSession)
		}
		if reply, ok := result.(*web.Reply); err == nil && (!ok || reply.Status < http.StatusBadRequest) {
			return result, nil
		}
		// The same request, sent before, may have finished it meanwhile, or may be about to.
		answer, waited, failed := a.awaitAnswer(r, i, until)
		if failed == nil && answer != nil {
			return answer, nil
		}
		if !waited || failed != nil {
			return result, err
		}
		// That one has failed too, and its session can be used again.
	}
}

// storedBody is storedParams as a body, which is empty when there are none.
func storedBody[Body any](ctx context.Context, a *Accounts, i *interaction) (body *Body, known bool, err error) {
	body = new(Body)
	params, known, err := a.storedParams(ctx, i)
	if err == nil && params != nil && json.Unmarshal(params, body) != nil {
		body = new(Body) // stored by a version with another shape of the body
	}
	return body, known, err
}

// decoded calls fn with a body into which it decodes text.
func decoded[Body any](r *web.Request, text []byte, body *Body, fn func(*web.Request, *Body) (any, error)) (any, error) {
	if err := decode(text, body); err != nil {
		return nil, err
	}
	return fn(r, body)
}

// decode parses a body that is valid JSON. Errors: M_BAD_JSON.
func decode(text []byte, body any) error {
	d := json.NewDecoder(bytes.NewReader(text))
	if err := d.Decode(body); err != nil {
		return matrix.BadJSON("A field of the body has the wrong type").With(err)
	}
	return nil
}

// Interactive asks the caller for the password before it runs fn, as the endpoints for deleting devices, replacing cross-signing
// keys, changing the password and deactivating do. auth is the auth member of the body, nil for none. params is everything else in
// the body that fn uses, in a form that encodes to JSON: an authentication is valid only for the user, the method, the path and
// the params that it was begun with. Until the caller is authenticated the answer is 401 with the flows and a session. fn passes
// the proof on to the change that it makes, which fails if the password was changed meanwhile.
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
	valid := func() error { return nil } // the caller has looked at them
	return a.runInteraction(r.Context(), start, auth, valid, func(i *interaction) (any, error) { return fn(i.proof) })
}
