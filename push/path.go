package push

import (
	"strings"

	"lyceum/matrix"
)

// path names a property of an event (appendices, "Dot-separated property paths"). The paths that the default rules use are known paths:
// their values are read once for each event.
type path struct {
	known knownPath
	parts []string // of a path that is not a known path
}

type knownPath uint8

const (
	pathNone knownPath = iota
	pathType
	pathSender
	pathRoom
	pathStateKey
	pathBody
	pathMsgtype
	pathMembership
	pathMentions
	pathMentionUsers
	pathMentionRoom
	pathRelType
	pathCount
)

var knownPaths = map[string]knownPath{
	"type": pathType, "sender": pathSender, "room_id": pathRoom, "state_key": pathStateKey,
	"content.body": pathBody, "content.msgtype": pathMsgtype, "content.membership": pathMembership,
	`content.m\.mentions`: pathMentions, `content.m\.mentions.user_ids`: pathMentionUsers,
	`content.m\.mentions.room`: pathMentionRoom, `content.m\.relates_to.rel_type`: pathRelType,
}

func pathOf(key string) path {
	if w, ok := knownPaths[key]; ok {
		return path{known: w}
	}
	var parts []string
	var b strings.Builder
	end := func() { // keys are compared as they stand in canonical JSON
		quoted := matrix.AppendString(nil, b.String())
		parts = append(parts, string(quoted[1:len(quoted)-1]))
		b.Reset()
	}
	for i := 0; i < len(key); i++ {
		switch c := key[i]; {
		case c == '\\' && i+1 < len(key) && (key[i+1] == '.' || key[i+1] == '\\'):
			i++
			b.WriteByte(key[i])
		case c == '.':
			end()
		default:
			b.WriteByte(c)
		}
	}
	end()
	return path{parts: parts}
}
