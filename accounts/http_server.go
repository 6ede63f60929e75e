package accounts

import (
	"lyceum/matrix"
	"lyceum/matrix/event"
	"lyceum/platform/web"
)

// specVersions are the supported versions of the Matrix specification.
var specVersions = []string{
	"r0.0.1", "r0.1.0", "r0.2.0", "r0.3.0", "r0.4.0", "r0.5.0", "r0.6.0", "r0.6.1",
	"v1.1", "v1.2", "v1.3", "v1.4", "v1.5", "v1.6", "v1.7", "v1.8",
	"v1.9", "v1.10", "v1.11", "v1.12", "v1.13", "v1.14", "v1.15", "v1.16",
}

// unstableFeatures are supported features by the names that they had as proposals, which clients still ask for.
var unstableFeatures = map[string]bool{
	"m.lazy_load_members":          true,
	"org.matrix.e2e_cross_signing": true,
	"org.matrix.msc2285.stable":    true, // private receipts
	"org.matrix.msc2432":           true, // aliases of a room
	"org.matrix.msc3391":           true, // account data is deleted
	"org.matrix.msc3440.stable":    true, // threads
	"org.matrix.msc3771":           true, // receipts in threads
	"org.matrix.msc3773":           true, // counts of threads
	"org.matrix.msc3827.stable":    true, // types of rooms in the directory
	"org.matrix.msc3916.stable":    true, // media with a token
	"org.matrix.msc3981":           true, // relations of relations
	"uk.tcpip.msc4133.stable":      true, // fields of a profile
}

func (a *Accounts) getVersions(*web.Request) (any, error) {
	return map[string]any{"versions": specVersions, "unstable_features": unstableFeatures}, nil
}

func (a *Accounts) getCapabilities(r *web.Request) (any, error) {
	type enabled struct {
		Enabled bool `json:"enabled"`
	}
	versions := map[string]string{}
	for _, v := range event.Versions() {
		if versions[v.ID] = "unstable"; v.Stable {
			versions[v.ID] = "stable"
		}
	}
	capabilities := map[string]any{
		"m.change_password": enabled{true},
		"m.room_versions":   map[string]any{"default": a.config.DefaultRoomVersion, "available": versions},
		"m.set_displayname": enabled{true},
		"m.set_avatar_url":  enabled{true},
		"m.3pid_changes":    enabled{false},
		"m.get_login_token": enabled{false},
		"m.profile_fields":  enabled{true},
	}
	if r.Identity.Admin {
		capabilities["m.account_moderation"] = map[string]bool{"suspend": true, "lock": true}
	}
	return map[string]any{"capabilities": capabilities}, nil
}

func (a *Accounts) clientWellKnown() map[string]any {
	type base struct {
		URL string `json:"base_url"`
	}
	found := map[string]any{"m.homeserver": base{a.config.WellKnown.Client}}
	if id := a.config.WellKnown.IdentityServer; id != "" {
		found["m.identity_server"] = base{id}
	}
	return found
}

func (a *Accounts) getClientWellKnown(*web.Request) (any, error) {
	if a.config.WellKnown.Client == "" {
		return nil, matrix.NotFound("This server does not say where its client API is")
	}
	return a.clientWellKnown(), nil
}

func (a *Accounts) getServerWellKnown(*web.Request) (any, error) {
	if a.config.WellKnown.Server == "" {
		return nil, matrix.NotFound("This server does not say where its federation API is")
	}
	return map[string]string{"m.server": a.config.WellKnown.Server}, nil
}

func (a *Accounts) getSupport(*web.Request) (any, error) {
	w := a.config.WellKnown
	if w.Support == "" && len(w.Contacts) == 0 {
		return nil, matrix.NotFound("This server does not say whom to ask")
	}
	return struct {
		Contacts []SupportPerson `json:"contacts,omitempty"`
		Page     string          `json:"support_page,omitempty"`
	}{w.Contacts, w.Support}, nil
}
