package devices

import (
	"encoding/json"
	"slices"

	"lyceum/accounts"
	"lyceum/matrix"
	"lyceum/platform/web"
)

type signingBody struct {
	Master json.RawMessage `json:"master_key"`
	Self   json.RawMessage `json:"self_signing_key"`
	User   json.RawMessage `json:"user_signing_key"`
	Auth   json.RawMessage `json:"auth"`
}

// parse returns the validated keys of the body, the master key first.
func (b *signingBody) parse(userID string) (keys []signingKey, err error) {
	for _, part := range []struct {
		usage string
		raw   json.RawMessage
	}{{usageMaster, b.Master}, {usageSelf, b.Self}, {usageUser, b.User}} {
		if len(part.raw) == 0 || string(part.raw) == "null" {
			continue
		}
		key, err := parseSigningKey(part.raw, userID, part.usage)
		if err != nil {
			return nil, err
		}
		keys = append(keys, *key)
	}
	return keys, nil
}

func (x *Devices) postSigning(r *web.Request, body *signingBody) (any, error) {
	keys, err := body.parse(r.UserID())
	if err != nil {
		return nil, err
	}
	u, err := x.checkSigningUpload(r.Context(), r.UserID(), keys)
	if err != nil || len(u.keys) == 0 {
		return nil, err
	}
	store := func(p accounts.Proof) (any, error) {
		c := listChange{Signing: u.keys, SeenMaster: &u.seen, Token: r.Identity.TokenID, Proof: p}
		if !slices.ContainsFunc(u.keys, func(k signingKey) bool { return k.Usage != usageUser }) {
			c.Viewer = r.UserID() // nobody else sees a user-signing key
		}
		res, err := x.change(r.Context(), r.UserID(), c)
		if err == nil && res.Refused {
			err = matrix.UnknownToken(false)
		}
		if err == nil && res.Unproved {
			err = accounts.ErrWrongPassword
		}
		if err == nil && res.Conflict {
			err = matrix.NewError(409, matrix.CodeUnknown, "The user's cross-signing keys were changed meanwhile: look at them and try again").
				With(errReplaced)
		}
		return nil, err
	}
	if !u.replace {
		return store("")
	}
	params := map[string]json.RawMessage{"master_key": body.Master, "self_signing_key": body.Self, "user_signing_key": body.User}
	return x.accounts.Interactive(r, body.Auth, params, store)
}

func (x *Devices) postSignatures(r *web.Request, body *map[string]map[string]json.RawMessage) (any, error) {
	failures, err := x.UploadSignatures(r.Context(), r.Identity, *body)
	if err != nil {
		return nil, err
	}
	return map[string]any{"failures": failures}, nil
}
