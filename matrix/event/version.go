package event

// IDFormat says where the id of an event comes from.
type IDFormat uint8

// The formats of event ids.
const (
	IDField   IDFormat = iota // the member event_id (room versions 1 and 2)
	IDHash                    // reference hash, standard base64 (3)
	IDHashURL                 // reference hash, URL-safe base64 (4 and later)
)

// Redaction says which members survive a redaction.
type Redaction uint8

// The redaction rules, named after the first room version that has them.
const (
	RedactV1  Redaction = iota
	RedactV6            // aliases lose their content
	RedactV8            // join rules keep allow
	RedactV9            // members keep join_authorised_via_users_server
	RedactV11           // fewer members on the top, more in the content
)

// StateRes names a state resolution algorithm.
type StateRes uint8

// The state resolution algorithms.
const (
	StateResV1  StateRes = iota // room version 1
	StateResV2                  // 2 to 11
	StateResV21                 // 12: MSC4297
)

// Version describes one room version as data (specification, "Room
// Versions"). The zero Version is no room version.
type Version struct {
	ID     string // as in m.room.create, "12"
	Stable bool   // as told in the capabilities; false is "unstable"

	IDFormat  IDFormat
	Redaction Redaction
	StateRes  StateRes

	StrictJSON           bool // 6: only strict canonical JSON
	KeyValidity          bool // 5: signing keys must be valid at origin_server_ts
	AliasesAuth          bool // 1-5: m.room.aliases has its own rule
	RedactionAuth        bool // 1-2: m.room.redaction has its own rule
	NotificationLevels   bool // 6: notifications count in power level changes
	Knock                bool // 7
	Restricted           bool // 8: join rule restricted
	KnockRestricted      bool // 10: join rule knock_restricted
	IntegerPowerLevels   bool // 10: levels are integers, never strings
	CreatorInContent     bool // 1-10: m.room.create needs content.creator
	RedactsInContent     bool // 11: redacts moved below content
	PrivilegedCreators   bool // 12: creators stand above all power levels
	RoomIDIsCreateHash   bool // 12: room id is ! and the hash of the create event
	CreateInAuthEvents   bool // 1-11: auth_events name the create event
	ReferencesWithHashes bool // 1-2: prev_events and auth_events are pairs

	number int
}

// DefaultVersion is the room version of new rooms, where the configuration names none (design/022).
const DefaultVersion = "11"

func makeVersion(n int) Version {
	v := Version{
		ID:                   [...]string{"", "1", "2", "3", "4", "5", "6", "7", "8", "9", "10", "11", "12"}[n],
		Stable:               true,
		IDFormat:             IDHashURL,
		StateRes:             StateResV2,
		StrictJSON:           n >= 6,
		KeyValidity:          n >= 5,
		AliasesAuth:          n <= 5,
		RedactionAuth:        n <= 2,
		NotificationLevels:   n >= 6,
		Knock:                n >= 7,
		Restricted:           n >= 8,
		KnockRestricted:      n >= 10,
		IntegerPowerLevels:   n >= 10,
		CreatorInContent:     n <= 10,
		RedactsInContent:     n >= 11,
		PrivilegedCreators:   n >= 12,
		RoomIDIsCreateHash:   n >= 12,
		CreateInAuthEvents:   n <= 11,
		ReferencesWithHashes: n <= 2,
		number:               n,
	}
	switch {
	case n <= 2:
		v.IDFormat = IDField
	case n == 3:
		v.IDFormat = IDHash
	}
	switch {
	case n >= 11:
		v.Redaction = RedactV11
	case n >= 9:
		v.Redaction = RedactV9
	case n == 8:
		v.Redaction = RedactV8
	case n >= 6:
		v.Redaction = RedactV6
	}
	switch n {
	case 1:
		v.StateRes = StateResV1
	case 12:
		v.StateRes = StateResV21
	}
	return v
}

var versions = func() (t [13]Version) {
	for n := 1; n < len(t); n++ {
		t[n] = makeVersion(n)
	}
	return t
}()

// VersionByID finds a room version; ok is false for an unknown one.
func VersionByID(id string) (v Version, ok bool) {
	for n := len(versions) - 1; n > 0; n-- {
		if versions[n].ID == id {
			return versions[n], true
		}
	}
	return Version{}, false
}

// Versions lists all room versions, oldest first.
func Versions() []Version { return append([]Version(nil), versions[1:]...) }

// ref gives the shared description, so that events need not carry a copy.
func (v Version) ref() *Version { return &versions[v.number] }
