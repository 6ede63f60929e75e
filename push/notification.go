package push

import (
	"context"
	"encoding/json"
	"errors"
	"slices"
	"time"

	"lyceum/rooms"
)

// notification is an event for a pusher.
type notification struct {
	pusher  *pusher
	event   *rooms.Event
	actions json.RawMessage
}

func (n notification) key() sendKey {
	return sendKey{n.pusher.UserID, n.pusher.AppID, n.pusher.Pushkey, n.event.ID}
}

// notificationsOf returns the notifications of an event.
func (p *Push) notificationsOf(ctx context.Context, e *rooms.Event) ([]notification, error) {
	if e.RedactedBy != "" {
		return nil, nil
	}
	members, err := p.receiversOf(ctx, e.RoomID)
	if err != nil {
		return nil, err
	}
	invited, err := p.invited(ctx, e)
	if err != nil {
		return nil, err
	}
	var out []notification
	var failed error
	for _, r := range slices.Concat(members, invited) {
		res, err := p.evaluateFor(ctx, r, e)
		if err != nil {
			failed = errors.Join(failed, err)
			continue
		}
		if !res.Notify {
			continue
		}
		for _, x := range r.pushers {
			out = append(out, notification{x, e, res.Actions})
		}
	}
	return out, failed
}

// evaluateFor evaluates the rules of a receiver, who may not have been a member when the event was sent.
func (p *Push) evaluateFor(ctx context.Context, r *receiver, e *rooms.Event) (Result, error) {
	if there, err := p.wasMemberAt(ctx, r, e); err != nil || !there {
		return Result{}, err
	}
	return p.evaluate(ctx, r.member.UserID, e)
}

// isTooOld reports whether an event is so old that nobody is notified of it.
func (p *Push) isTooOld(e *rooms.Event) bool {
	return p.Now().Sub(time.UnixMilli(e.OriginServerTS)) > maxEventAge
}

// evaluate returns what the rules of a user say of an event. Own events and events of ignored users do not notify.
func (p *Push) evaluate(ctx context.Context, userID string, e *rooms.Event) (Result, error) {
	if e.Sender == userID {
		return Result{}, nil
	}
	ignored, err := p.Accounts.Ignored(ctx, userID)
	if err != nil || ignored[e.Sender] {
		return Result{}, err
	}
	rules, err := p.rulesOf(ctx, userID)
	if err != nil {
		return Result{}, err
	}
	l, entry := p.userCount(userID, e.RoomID)
	facts, err := p.factsFor(ctx, userID, l, entry, e)
	if err != nil {
		return Result{}, err
	}
	return Evaluate(rules.compiled, NewSubject(e.Event), &facts), nil
}
