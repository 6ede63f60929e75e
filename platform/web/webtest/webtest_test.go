package webtest_test

import (
	"testing"

	"lyceum/platform/web"
	"lyceum/platform/web/webtest"
)

func TestClient(t *testing.T) {
	client := webtest.New(t, webtest.People{"a": {UserID: "@a:x"}}, web.Route{
		Pattern: "PUT /name/{name}", Auth: web.User,
		Handler: web.JSON(func(r *web.Request, body *struct{ Age int }) (any, error) {
			return map[string]any{"user": r.UserID(), "name": r.Path("name"), "age": body.Age}, nil
		}),
	})
	if got := client.Call("PUT /name/x", nil).Errcode(); got != "M_MISSING_TOKEN" {
		t.Errorf("without a token: %q", got)
	}
	answer := client.As("a").Want(200, "PUT /name/x", map[string]int{"age": 7})
	if answer.Get("user").String() != "@a:x" || answer.Get("name").String() != "x" || answer.Get("age").Int() != 7 {
		t.Errorf("%s", answer.Body)
	}
	if got := client.As("a").Call("PUT /name/x", "{").Errcode(); got != "M_NOT_JSON" {
		t.Errorf("a broken body: %q", got)
	}
}
