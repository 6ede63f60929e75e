package devices

import (
	"bufio"
	"bytes"
	"encoding/json"
	"testing"

	"lyceum/matrix"
)

func FuzzKeysUpload(f *testing.F) {
	f.Add(
		[]byte(
			`{"device_keys":{"user_id":"@a:x","device_id":"D","algorithms":[],"keys":{"ed25519:D":"AA"},"signatures":{}},` +
				`"one_time_keys":{"signed_curve25519:A":{"key":"x"}}}`,
		),
	)
	f.Add(
		[]byte(
			`{"device_keys":{"user_id":"@a:x","device_id":"D","algorithms":["m"],` +
				`"keys":{"ed25519:D":"11qYAYKxCrfVS/7TyWQHOg7hcvPapiMlrwIaaPcHURo"},"signatures":{"@a:x":{"ed25519:D":"AA"}}}}`,
		),
	)
	f.Add([]byte(`{"fallback_keys":{"a:b":"text"},"one_time_keys":{"c:d":"e"}}`))
	f.Fuzz(func(t *testing.T, raw []byte) {
		var body uploadBody
		if json.Unmarshal(raw, &body) != nil {
			return
		}
		_, u, err := body.parse("@a:x", "D")
		if err != nil {
			if matrix.AsError(err).Status != 400 {
				t.Errorf("not the client's fault: %v", err)
			}
			return
		}
		for _, k := range append(u.OneTime, u.Fallback...) {
			if !validName(k.ID) || !validName(k.Algorithm) || !json.Valid([]byte(k.Body)) {
				t.Errorf("accepted %+v", k)
			}
		}
	})
}

func FuzzSigningKeys(f *testing.F) {
	f.Add(
		[]byte(
			`{"master_key":{"user_id":"@a:x","usage":["master"],` +
				`"keys":{"ed25519:11qYAYKxCrfVS/7TyWQHOg7hcvPapiMlrwIaaPcHURo":"11qYAYKxCrfVS/7TyWQHOg7hcvPapiMlrwIaaPcHURo"}}}`,
		),
	)
	f.Add([]byte(`{"self_signing_key":[],"user_signing_key":{"keys":{}}}`))
	f.Fuzz(func(t *testing.T, raw []byte) {
		var body signingBody
		if json.Unmarshal(raw, &body) != nil {
			return
		}
		keys, err := body.parse("@a:x")
		if err != nil {
			return
		}
		u := &signatureUpload{signer: "@a:x", keys: map[string][]signingKey{"@a:x": keys}, accepted: map[string][]keySignature{}}
		for _, k := range keys {
			if err := u.checkTarget("@a:x", k.Public, json.RawMessage(k.Body)); err == nil {
				t.Errorf("a signature without a signer was taken: %s", k.Body)
			}
		}
	})
}

func FuzzMessage(f *testing.F) {
	f.Add("@a:x", "m.x", []byte(`{"a":"\u0000"}`))
	f.Add("\"\\", "\x00\xff", []byte(`{}`))
	f.Fuzz(func(t *testing.T, sender, typ string, content []byte) {
		if !json.Valid(content) {
			return
		}
		if got := encodeMessage(sender, typ, string(content)); !json.Valid(got) {
			t.Errorf("%q", got)
		}
	})
}

func FuzzBackup(f *testing.F) {
	f.Add(
		[]byte(`{"!r:x":{"sessions":{"s":{"first_message_index":1,"forwarded_count":0,"is_verified":true,"session_data":{"a":1}},"t":null}}}`),
	)
	f.Add(
		[]byte(
			`{"!r:x":{"sessions":{"s":{"first_message_index":1,"forwarded_count":0,"is_verified":true,"session_data":{}}}},` +
				`"!q\"":{"sessions":{"\\":{"first_message_index":1,"forwarded_count":0,"is_verified":true,"session_data":{}}}}}`,
		),
	)
	f.Fuzz(func(t *testing.T, raw []byte) {
		var rooms map[string]backupSessions
		if json.Unmarshal(raw, &rooms) != nil {
			return
		}
		keys, err := flatten(rooms)
		if err != nil {
			return
		}
		for i := range keys {
			if keys[i].replaces(keys[i]) {
				t.Error("a key replaces itself")
			}
			for j := range keys {
				if i != j && keys[i].replaces(keys[j]) && keys[j].replaces(keys[i]) {
					t.Error("two keys replace each other")
				}
			}
		}
		var out bytes.Buffer
		w := bufio.NewWriter(&out)
		if err := writeBackup(w, keys, true, func(sessionKey) ([]*backupKey, error) { return nil, nil }); err != nil {
			t.Fatal(err)
		}
		if _ = w.Flush(); !json.Valid(out.Bytes()) {
			t.Errorf("%s", out.Bytes())
		}
	})
}
