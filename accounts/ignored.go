package accounts

import (
	"context"
	"encoding/json"
)

const typeIgnoredUsers = "m.ignored_user_list"

// Ignored returns the users whom the user ignores (m.ignored_user_list), nil for none. The map is shared and must not be changed.
func (a *Accounts) Ignored(ctx context.Context, userID string) (ignored map[string]bool, err error) {
	var datum *AccountDatum
	err = a.accountData.view(ctx, userID, func(u *userData) { ignored, datum = u.ignored, u.data[dataKey{"", typeIgnoredUsers}] })
	if err != nil || ignored != nil || datum == nil {
		return ignored, err
	}
	ignored = map[string]bool{}
	var list struct {
		Users map[string]json.RawMessage `json:"ignored_users"`
	}
	if json.Unmarshal(datum.Content, &list) == nil { // clients may store any content
		for id := range list.Users {
			ignored[id] = true
		}
		delete(ignored, userID) // users never ignore themselves
	}
	a.accountData.mu.Lock()
	defer a.accountData.mu.Unlock()
	if e, ok := a.accountData.users.entries[userID]; ok && e.value.data[dataKey{"", typeIgnoredUsers}] == datum {
		e.value.ignored, e.value.ignoredBytes = ignored, 0
		for id := range ignored {
			e.value.ignoredBytes += 64 + int64(len(id))
		}
		a.accountData.updateWeight(userID, e.value)
	}
	return ignored, nil
}
