package accounts

import (
	"context"
	"errors"
	"slices"
	"sync"
	"testing"

	"lyceum/platform/role/roletest"
)

// failingListener is a listener that fails as often as it is told to.
type failingListener struct {
	mu    sync.Mutex
	fails int
	done  []string
}

func (m *failingListener) DeviceAdded(context.Context, string, string) error { return nil }

func (m *failingListener) DevicesRemoved(_ context.Context, userID string, ids []string) error {
	for _, id := range ids {
		if err := m.do(userID + "/" + id); err != nil {
			return err
		}
	}
	return nil
}

func (m *failingListener) ProfileChanged(_ context.Context, userID, field string) error {
	return m.do(userID + "/" + field)
}

func (m *failingListener) do(what string) error {
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.fails > 0 {
		m.fails--
		return errors.New("not now")
	}
	m.done = append(m.done, what)
	return nil
}

func (m *failingListener) has(what string) bool {
	m.mu.Lock()
	defer m.mu.Unlock()
	return slices.Contains(m.done, what)
}

func (n *node) followUpsLeft() (left int) {
	n.t.Helper()
	if err := n.db.QueryRow(context.Background(), `SELECT COUNT(*) FROM account_news`).Scan(&left); err != nil {
		n.t.Fatal(err)
	}
	return left
}

// What a change leaves to be done is done though a part of the server fails, and once it is done nothing is left.
func TestFollowUpsAreDone(t *testing.T) {
	part := &failingListener{}
	runWith(t, Deps{Devices: []DeviceListener{part}, Profile: part}, testConfig(), func(t *testing.T, n *node) {
		part.mu.Lock()
		part.done, part.fails = nil, 0
		part.mu.Unlock()
		anna := n.register("anna").want(200)
		id := "@anna:here.test"
		device := anna.text("device_id")
		part.mu.Lock()
		part.fails = 2 // at once, and when it is tried again
		part.mu.Unlock()
		n.do("POST", client+"/logout", anna.text("access_token"), obj{}).want(200)
		if n.followUpsLeft() != 1 {
			t.Errorf("%d things are left to be done, expected 1", n.followUpsLeft())
		}
		roletest.Until(t, "the device is cleaned up after", func() bool { return part.has(id + "/" + device) })
		roletest.Until(t, "nothing is left", func() bool { return n.followUpsLeft() == 0 })

		part.mu.Lock()
		part.fails = 1
		part.mu.Unlock()
		if err := n.SetProfile(t.Context(), id, "displayname", []byte(`"Anna"`)); err != nil {
			t.Fatal(err)
		}
		roletest.Until(t, "the profile is carried", func() bool { return part.has(id + "/displayname") })
		roletest.Until(t, "nothing is left", func() bool { return n.followUpsLeft() == 0 })

		berta := n.register("berta").want(200)
		n.do("POST", client+"/logout", berta.text("access_token"), obj{}).want(200)
		if !part.has("@berta:here.test/"+berta.text("device_id")) || n.followUpsLeft() != 0 {
			t.Error("the clean-up is not done when the answer comes")
		}
	})
}
