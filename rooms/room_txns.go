package rooms

// recentTxns are the transactions of a room that its owner knows of.
type recentTxns struct {
	keep int
	byID map[string]string
	ring []string
}

func (t *recentTxns) get(key string) string {
	return t.byID[key]
}

// put notes a transaction. The oldest ones are forgotten, once they are stored: until then the database does not know them.
func (t *recentTxns) put(key, eventID string, stored func(eventID string) bool) {
	if t.byID == nil {
		t.byID = map[string]string{}
	}
	for len(t.ring) >= t.keep && stored(t.byID[t.ring[0]]) {
		delete(t.byID, t.ring[0])
		t.ring = t.ring[1:]
	}
	t.byID[key] = eventID
	t.ring = append(t.ring, key)
}

func txnKey(sender, device, txn string) string { return sender + "\x00" + device + "\x00" + txn }
