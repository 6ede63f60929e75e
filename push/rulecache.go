package push

import (
	"context"
	"encoding/json"
	"sync"

	"lyceum/accounts"
	"lyceum/platform/stream"
)

const typeRules = "m.push_rules"

// ruleCache keeps the compiled rules of users. Rules that were read while they changed are not kept (changes).
type ruleCache struct {
	mu      sync.RWMutex
	users   map[string]*userRules
	changes int64 // how often rules changed; rules that were read before a change may be stale
}

type userRules struct {
	compiled *Rules
	stored   json.RawMessage // empty for most users
}

// rulesOf returns the rules of a user.
func (p *Push) rulesOf(ctx context.Context, userID string) (*userRules, error) {
	c := &p.rules
	c.mu.RLock()
	u, moved := c.users[userID], c.changes
	c.mu.RUnlock()
	if u != nil {
		return u, nil
	}
	raw, err := p.Accounts.AccountData(ctx, userID, "", typeRules)
	if err != nil {
		return nil, err
	}
	u = &userRules{compiled: Compile(userID, raw), stored: raw}
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.changes == moved {
		if len(c.users) >= max(p.config.RuleCache, 100) {
			for id := range c.users { // evict any user
				delete(c.users, id)
				break
			}
		}
		c.users[userID] = u
	}
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
		p.rules.mu.Lock()
		p.rules.changes++
		delete(p.rules.users, row.Key)
		p.rules.mu.Unlock()
	}
}
