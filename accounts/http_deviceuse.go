package accounts

import (
	"strings"

	"lyceum/platform/web"
)

// recordUse notes that a device was used. It touches memory only.
func (a *Accounts) recordUse(r *web.Request) {
	id := r.Identity
	if id == nil || id.DeviceID == "" {
		return
	}
	agent := r.UserAgent()
	if len(agent) > maxAgent {
		agent = agent[:maxAgent]
	}
	key, s := deviceKey{id.UserID, id.DeviceID}, deviceUse{ip: r.RemoteIP(), at: a.nowMs()}
	a.deviceUses.mu.Lock()
	defer a.deviceUses.mu.Unlock()
	was, known := a.deviceUses.byDevice[key]
	if known || len(a.deviceUses.byDevice) < maxDeviceUses {
		if s.agent = was.agent; agent != was.agent {
			s.agent = strings.Clone(agent) // it may be a part of the head of the request
		}
		a.deviceUses.byDevice[key] = s
	}
}

// RecordDeviceUse makes a handler that notes the caller's device before it does its work.
func (a *Accounts) RecordDeviceUse(next web.Handler) web.Handler {
	return func(r *web.Request) (any, error) {
		a.recordUse(r)
		return next(r)
	}
}
