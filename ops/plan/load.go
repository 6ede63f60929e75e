package plan

import (
	"errors"
	"fmt"
)

// Load is what a fleet must carry in its busiest minutes.
type Load struct {
	ConcurrentUsers   float64 `json:"concurrent_users"`    // clients that wait in /sync
	MessagesPerSecond float64 `json:"messages_per_second"` // 0: from the examples of the Synapse guide, by interpolation
	FederatedServers  float64 `json:"federated_servers"`   // other servers that share rooms
	HostedServers     float64 `json:"hosted_servers"`      // Matrix servers whose media one repository keeps
	UploadsPerDay     float64 `json:"uploads_per_day"`     // 0: Habits.UploadsPerUser of each concurrent user
	UploadSize        float64 `json:"upload_size"`         // bytes, mean; 0: 1 MiB
	Editors           float64 `json:"editors"`             // people who type in documents at once
	Compiles          float64 `json:"compiles"`            // documents compiled at once
	Cores             float64 `json:"cores_per_process"`   // most a process may use; 0: 2, or more where hearing all news fills so much
	Habits            Habits  `json:"habits"`

	// Of the configuration, in bytes; 0: their defaults.
	MaxInFlight float64 `json:"max_in_flight,omitempty"` // http.max_in_flight
	OwnerMemory float64 `json:"owner_memory,omitempty"`  // rooms.owner_memory
}

// Habits are what people do beside what Load says. Zero fields take the value of DefaultHabits.
type Habits struct {
	Audience       float64 `json:"audience"`         // clients that wait for a message of a room
	Receipts       float64 `json:"receipts"`         // read receipts for each message
	Typing         float64 `json:"typing"`           // typing notices for each message
	PresenceEvery  float64 `json:"presence_seconds"` // seconds between changes of one user's presence
	ToDevice       float64 `json:"to_device"`        // messages between devices for each message, as encryption needs
	Requests       float64 `json:"requests"`         // other requests per second of one user: profiles, history, keys
	FirstSyncs     float64 `json:"first_syncs"`      // first syncs of one user in an hour
	UploadsPerUser float64 `json:"uploads_per_user"` // in a day, for each concurrent user
	Downloads      float64 `json:"downloads"`        // downloads for each upload
	Thumbnails     float64 `json:"thumbnails"`       // thumbnails made for each upload
	Settings       float64 `json:"settings"`         // changes of account data for each user in an hour
	PeakFactor     float64 `json:"peak_factor"`      // busiest minutes over the mean of a day
	Edits          float64 `json:"edits"`            // edits per second of one editor
	Rooms          float64 `json:"rooms"`            // rooms made by one user in an hour
	Joins          float64 `json:"joins"`            // joins of one user in an hour
}

// DefaultHabits are assumptions, not measurements: a plan prints them.
var DefaultHabits = Habits{
	Audience: 20, Receipts: 1, Typing: 1, PresenceEvery: 300, ToDevice: 0.2, Requests: 0.05, FirstSyncs: 0.1,
	UploadsPerUser: 1, Downloads: 10, Thumbnails: 2, Settings: 2, PeakFactor: 3, Edits: 3, Rooms: 0.05, Joins: 0.5,
}

// guideMessages are the messages per second of the Synapse guide's examples, by concurrent users.
var guideMessages = [][2]float64{{0, 0}, {100, 10}, {1000, 50}, {5000, 200}, {10000, 400}, {20000, 800}}

// GuideMessages gives the messages per second of so many users in the Synapse guide: between its examples a
// straight line, beyond the last its ratio of 0.04 a user.
func GuideMessages(users float64) float64 {
	for i, p := range guideMessages[1:] {
		if users <= p[0] {
			low := guideMessages[i]
			return low[1] + (p[1]-low[1])*(users-low[0])/(p[0]-low[0])
		}
	}
	last := guideMessages[len(guideMessages)-1]
	return users * last[1] / last[0]
}

// complete fills what was not given and says how.
func (l Load) complete() (Load, []string) {
	var said []string
	if l.MessagesPerSecond == 0 {
		l.MessagesPerSecond = GuideMessages(l.ConcurrentUsers)
		said = append(said, fmt.Sprintf("%s messages/s: interpolated from the examples of the Synapse guide (100 users: 10/s … 20,000: 800/s)",
			number(l.MessagesPerSecond)))
	}
	h := l.Habits.complete()
	if l.UploadsPerDay == 0 {
		l.UploadsPerDay = l.ConcurrentUsers * h.UploadsPerUser
		said = append(said, fmt.Sprintf("%s uploads a day: %s for each concurrent user", number(l.UploadsPerDay), number(h.UploadsPerUser)))
	}
	if l.UploadSize == 0 {
		l.UploadSize = 1 << 20
		said = append(said, "1 MiB an upload, the size the guide's target speaks of")
	}
	l.Habits = h
	said = append(said, fmt.Sprintf("habits: a message reaches %s waiting clients and brings %s receipts, "+
		"%s typing notices and %s messages between devices; a user changes presence every %s s and makes %s other requests/s",
		number(h.Audience), number(h.Receipts), number(h.Typing), number(h.ToDevice), number(h.PresenceEvery), number(h.Requests)))
	return l, said
}

func (h Habits) complete() Habits {
	d := DefaultHabits
	for _, p := range []struct{ have, want *float64 }{
		{&h.Audience, &d.Audience},
		{&h.Receipts, &d.Receipts},
		{&h.Typing, &d.Typing},
		{&h.PresenceEvery, &d.PresenceEvery},
		{&h.ToDevice, &d.ToDevice},
		{&h.Requests, &d.Requests},
		{&h.FirstSyncs, &d.FirstSyncs},
		{&h.UploadsPerUser, &d.UploadsPerUser},
		{&h.Downloads, &d.Downloads},
		{&h.Thumbnails, &d.Thumbnails},
		{&h.Settings, &d.Settings},
		{&h.PeakFactor, &d.PeakFactor},
		{&h.Edits, &d.Edits},
		{&h.Rooms, &d.Rooms},
		{&h.Joins, &d.Joins},
	} {
		if *p.have == 0 {
			*p.have = *p.want
		}
	}
	return h
}

// Validate tells which figure can not be.
func (l Load) Validate() error {
	const most, least = 1e9, 0.01 // far beyond what anybody has, and within what whole numbers hold
	var errs []error
	for _, f := range []struct {
		name        string
		value       float64
		least, most float64
	}{
		{"concurrent users", l.ConcurrentUsers, 1, most},
		{"messages per second", l.MessagesPerSecond, 0, most},
		{"federated servers", l.FederatedServers, 0, most},
		{"hosted servers", l.HostedServers, 0, most},
		{"uploads per day", l.UploadsPerDay, 0, most},
		{"upload size", l.UploadSize, 0, 1e12},
		{"editors", l.Editors, 0, most},
		{"compiles", l.Compiles, 0, most},
		{"cores per process", l.Cores, least, 1e6},
	} {
		if f.value != 0 && !(f.value >= f.least && f.value <= f.most) { // NaN is neither
			errs = append(errs, fmt.Errorf("%s: expected 0, or a number from %s to %s, found %v", f.name, number(f.least), number(f.most), f.value))
		}
	}
	return errors.Join(errs...)
}

// scale is the same community with so many users.
func (l Load) scale(users float64) Load {
	if l.ConcurrentUsers > 0 {
		f := users / l.ConcurrentUsers
		for _, v := range []*float64{&l.MessagesPerSecond, &l.FederatedServers, &l.HostedServers, &l.UploadsPerDay, &l.Editors, &l.Compiles} {
			*v *= f
		}
	}
	l.ConcurrentUsers = users
	return l
}

// Steps are the sizes that a plan shows beside the one asked for.
var Steps = []float64{100, 1000, 5000, 10000, 20000, 50000, 100000}

// phases are those of the Synapse guide, and one beyond: name and the users at which it begins.
var phases = []struct {
	from float64
	name string
}{{0, "small"}, {1000, "medium"}, {5000, "large"}, {10000, "very large"}, {20000.5, "beyond the guide"}}

// Phase is the number (1 to 5) and name of the phase of so many users.
func Phase(users float64) (int, string) {
	n := 0
	for i, p := range phases {
		if users >= p.from {
			n = i
		}
	}
	return n + 1, phases[n].name
}
