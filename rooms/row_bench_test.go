package rooms

import (
	"crypto/rand"
	"strings"
	"testing"

	"lyceum/matrix"
	"lyceum/matrix/event"
	"lyceum/platform/stream"
)

// BenchmarkRow is what a row of a message costs that comes over the bus: to a process that keeps nothing of it, and to one
// whose tails, four of them, need the event.
func BenchmarkRow(b *testing.B) {
	key, err := matrix.GenerateSigningKey("bench", rand.Reader)
	if err != nil {
		b.Fatal(err)
	}
	v, _ := event.VersionByID("12")
	pdu, err := event.Build(v, event.Proto{
		RoomID: "!jYHyKnxdlVDx5qJWwQYqMIyM0CAwzOq1aYyAaFGVvLY", Type: "m.room.message", Sender: "@alice:example.org",
		OriginServerTS: 1700000000000,
		Content:        []byte(`{"msgtype":"m.text","body":"` + strings.Repeat("hello ", 20) + `"}`),
		PrevEvents:     []string{"$a"}, AuthEvents: []string{"$b", "$c", "$d"},
	}, key)
	if err != nil {
		b.Fatal(err)
	}
	row := stream.Row{Shard: 3, Pos: 7, Key: pdu.RoomID, Data: (&Event{Event: pdu, Device: "DEVICE", Txn: "1"}).encode()}
	b.Run("uninterested", func(b *testing.B) {
		b.ReportAllocs()
		for b.Loop() {
			if g, ok := RowHeaderOf(row); !ok || len(g.Redacts) > 0 {
				b.Fatal("damaged")
			}
		}
	})
	b.Run("interested", func(b *testing.B) {
		r := &Rooms{}
		b.ReportAllocs()
		for b.Loop() {
			row := row
			for range 4 {
				if _, err := r.FromRowCached(&row); err != nil {
					b.Fatal(err)
				}
			}
		}
	})
	b.Run("each tail by itself", func(b *testing.B) {
		b.ReportAllocs()
		for b.Loop() {
			for range 4 {
				if _, err := Decode(row); err != nil {
					b.Fatal(err)
				}
			}
		}
	})
}

func FuzzDecodeRow(f *testing.F) {
	f.Add([]byte{0})
	f.Add([]byte{2, 1, 'x', 1, 'y', 2, '1', '2'})
	f.Fuzz(func(t *testing.T, data []byte) {
		e, err := Decode(stream.Row{Data: data})
		if err != nil {
			return
		}
		if g, ok := RowHeaderOf(stream.Row{Data: e.encode()}); !ok || string(g.Sender) != e.Sender || string(g.Redacts) != e.Redacts ||
			g.OriginServerTS != e.OriginServerTS {
			t.Fatalf("%+v of %s", g, e.JSON)
		}
	})
}
