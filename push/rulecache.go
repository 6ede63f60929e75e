package push

import (
	"context"
	"encoding/json"
	"sync"

	"github.com/maypok86/otter/v2"

	"lyceum/accounts"
	"lyceum/platform/stream"
)

const typeRules = "m.push_rules"

// ruleCache keeps the compiled rules of users. Rules that were read while rules changed are not kept.
type ruleCache struct {
	users   *otter.Cache[string, *userRules]
	mu      sync.Mutex // of what is stored and removed
	changes int64      // how often rules changed; rules that were read before a change may be stale
}

func (c *ruleCache) init(most int) {
	c.users = otter.Must(&otter.Options[string, *userRules]{MaximumSize: most})
}

// readChanges returns the count of changes, for store.
func (c *ruleCache) readChanges() int64 {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.changes
}

// store keeps the rules of a user, if no rules changed since the count of changes was read.
func (c *ruleCache) store(userID string, u *userRules, changes int64) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.changes == changes {
		c.users.Set(userID, u)
	}
}

// remove removes the rules of a user, as they changed.
func (c *ruleCache) remove(userID string) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.changes++
	c.users.Invalidate(userID)
}

type userRules struct {
	compiled *Rules
	stored   json.RawMessage // empty for most users
}

// rulesOf returns the rules of a user.
func (p *Push) rulesOf(ctx context.Context, userID string) (*userRules, error) {
	c := &p.rules
	if u, ok := c.users.GetIfPresent(userID); ok {
		return u, nil
	}
	changes := c.readChanges()
	raw, err := p.Accounts.AccountData(ctx, userID, "", typeRules)
	if err != nil {
		return nil, err
	}
	u := &userRules{compiled: Compile(userID, raw), stored: raw}
	c.store(userID, u, changes)
	return u, nil
}

// Ruleset returns all rules of a user in the form for clients: {"global": …}.
func (p *Push) Ruleset(ctx context.Context, userID string) (json.RawMessage, error) {
	u, err := p.rulesOf(ctx, userID)
	if err != nil {
		return nil, err
	}
	return merge(userID, u.stored).encode(), nil
}

// rulesChanged is called with the rows of the stream of account data.
func (p *Push) rulesChanged(rows []stream.Row) {
	for _, row := range rows {
		typ := typeRules // a row that can not be read is taken as a change of rules
		if datum, ok := row.Value.(*accounts.AccountDatum); ok {
			typ = datum.Type
		} else if row.Data != nil {
			var datum struct {
				Type string `json:"type"`
			}
			if json.Unmarshal(row.Data, &datum) == nil {
				typ = datum.Type
			}
		}
		if typ != typeRules {
			continue
		}
		p.rules.remove(row.Key)
	}
}
