package accounts

import (
	"context"
	"encoding/json"
)

const typeTag = "m.tag"

// tagContent is the content of m.tag.
type tagContent struct {
	Tags map[string]json.RawMessage `json:"tags"`
}

// Tags returns the tags of a room, by name.
func (a *Accounts) Tags(ctx context.Context, userID, roomID string) (map[string]json.RawMessage, error) {
	content, err := a.AccountData(ctx, userID, roomID, typeTag)
	return parseTags(content).Tags, err
}

func parseTags(content json.RawMessage) tagContent {
	var c tagContent
	if json.Unmarshal(content, &c) != nil || c.Tags == nil { // clients may store any content as m.tag
		c.Tags = map[string]json.RawMessage{}
	}
	return c
}

// changeTag sets or removes a tag in the content of m.tag. It returns nil if nothing changes.
func changeTag(content json.RawMessage, w dataWrite) (json.RawMessage, error) {
	c := parseTags(content)
	if w.Kind == writeTag {
		c.Tags[w.Tag] = w.Content
	} else {
		if _, ok := c.Tags[w.Tag]; !ok {
			return nil, nil
		}
		delete(c.Tags, w.Tag)
	}
	return json.Marshal(c)
}
