package bench

import (
	"bytes"
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"image"
	"image/jpeg"
	"io"
	"net/url"
	"time"
)

// Small is a closed loop of one kind of short request.
type Small struct {
	Kind     string // a key of SmallKinds
	Users    int
	Duration time.Duration
	Size     int // bytes of an upload; megapixels of a picture of which thumbnails are made
}

// SmallKinds are the kinds of Small and what each does.
var SmallKinds = map[string]string{
	"request":      "reads of profiles, of the list of rooms and of the last 20 messages",
	"receipt":      "read receipts, each for the next message",
	"typing":       "typing notices, on and off",
	"presence":     "changes of presence",
	"to_device":    "messages to another user's device",
	"account_data": "changes of account data",
	"upload":       "uploads of files that are all different",
	"download":     "downloads of a file",
	"thumbnail":    "first thumbnails of pictures that are all different",
}

// errEnough ends the loop of one user before its time.
var errEnough = errors.New("nothing left to do")

// smallRun is what a kind prepared.
type smallRun struct {
	Small
	users  []*person
	room   string
	events []string
	files  []string // content URIs without mxc://
}

// step does the n-th request of user i.
type step func(ctx context.Context, i, n int) error

// Run prepares what the kind needs and measures the loop.
func (s Small) Run(ctx context.Context, t *Target, out io.Writer) (*Result, error) {
	if err := t.open(); err != nil {
		return nil, err
	}
	users, err := t.people(ctx, s.Users, newProgress(out, "users", s.Users))
	if err != nil {
		return nil, err
	}
	run := &smallRun{Small: s, users: users}
	do, err := run.prepare(ctx)
	if err != nil {
		return nil, fmt.Errorf("%s: %w", s.Kind, err)
	}
	m := newMeter()
	usage := t.watch()
	m.start()
	until, cancel := context.WithTimeout(ctx, s.Duration)
	defer cancel()
	err = parallel(ctx, len(users), len(users), func(i int) error {
		for n := 0; until.Err() == nil; n++ {
			began := time.Now()
			if err := do(ctx, i, n); errors.Is(err, errEnough) {
				return nil
			} else if err != nil {
				m.errors.Add(1)
				return err
			}
			m.record(time.Since(began))
		}
		return nil
	})
	used := usage()
	r := m.result(s.Kind, map[string]any{"users": s.Users, "size": s.Size})
	r.Server, r.Check = used, "ok"
	if err != nil && ctx.Err() == nil {
		r.Check = err.Error()
	}
	return r, ctx.Err()
}

func (s *smallRun) prepare(ctx context.Context) (step, error) {
	switch s.Kind {
	case "request":
		return s.requests, s.inRoom(ctx, 20)
	case "receipt":
		return s.receipt, s.inRoom(ctx, 50*len(s.users))
	case "typing":
		return s.typing, s.inRoom(ctx, 0)
	case "presence":
		return s.presence, nil
	case "to_device":
		return s.toDevice, nil
	case "account_data":
		return s.accountData, nil
	case "upload":
		return s.upload, nil
	case "download":
		return s.download, s.uploads(ctx, 4, random(s.Size))
	case "thumbnail":
		picture, err := photograph(s.Size)
		if err != nil {
			return nil, err
		}
		return s.thumbnail, s.uploads(ctx, max(8, int(s.Duration.Seconds()*3)), picture)
	}
	return nil, fmt.Errorf("no such kind of request: %q", s.Kind)
}

// inRoom puts all into one room with so many messages.
func (s *smallRun) inRoom(ctx context.Context, messages int) (err error) {
	if s.room, err = room(ctx, s.users, newProgress(io.Discard, "", 0)); err != nil {
		return err
	}
	for n := range messages {
		path := fmt.Sprintf("/_matrix/client/v3/rooms/%s/send/m.room.message/s%d", url.PathEscape(s.room), n)
		id, err := s.users[n%len(s.users)].call(ctx, "PUT", path,
			body(map[string]string{"msgtype": "m.text", "body": fmt.Sprint("message ", n)}), "event_id")
		if err != nil {
			return err
		}
		s.events = append(s.events, id)
	}
	return nil
}

func (s *smallRun) requests(ctx context.Context, i, n int) error {
	paths := []string{
		"/_matrix/client/v3/profile/" + url.PathEscape(s.users[(i+n)%len(s.users)].id),
		"/_matrix/client/v3/joined_rooms",
		"/_matrix/client/v3/rooms/" + url.PathEscape(s.room) + "/messages?dir=b&limit=20",
		"/_matrix/client/v3/devices",
	}
	_, err := s.users[i].do(ctx, "GET", paths[n%len(paths)], nil, time.Minute)
	return err
}

func (s *smallRun) receipt(ctx context.Context, i, n int) error {
	if n >= len(s.events) {
		return errEnough
	}
	path := "/_matrix/client/v3/rooms/" + url.PathEscape(s.room) + "/receipt/m.read/" + url.PathEscape(s.events[n])
	_, err := s.users[i].do(ctx, "POST", path, []byte("{}"), time.Minute)
	return err
}

func (s *smallRun) typing(ctx context.Context, i, n int) error {
	path := "/_matrix/client/v3/rooms/" + url.PathEscape(s.room) + "/typing/" + url.PathEscape(s.users[i].id)
	_, err := s.users[i].do(ctx, "PUT", path, fmt.Appendf(nil, `{"typing":%t,"timeout":30000}`, n%2 == 0), time.Minute)
	return err
}

func (s *smallRun) presence(ctx context.Context, i, n int) error {
	path := "/_matrix/client/v3/presence/" + url.PathEscape(s.users[i].id) + "/status"
	_, err := s.users[i].do(ctx, "PUT", path, fmt.Appendf(nil, `{"presence":"online","status_msg":"%d"}`, n), time.Minute)
	return err
}

func (s *smallRun) toDevice(ctx context.Context, i, n int) error {
	to := s.users[(i+1)%len(s.users)].id
	message := body(map[string]any{"messages": map[string]any{to: map[string]any{"*": map[string]string{"text": "message between devices"}}}})
	_, err := s.users[i].do(ctx, "PUT", fmt.Sprintf("/_matrix/client/v3/sendToDevice/org.example.load/t%d", n), message, time.Minute)
	return err
}

func (s *smallRun) accountData(ctx context.Context, i, n int) error {
	path := "/_matrix/client/v3/user/" + url.PathEscape(s.users[i].id) + "/account_data/org.example.load"
	_, err := s.users[i].do(ctx, "PUT", path, fmt.Appendf(nil, `{"n":%d}`, n), time.Minute)
	return err
}

func (s *smallRun) upload(ctx context.Context, i, n int) error {
	file := random(s.Size)
	binary.BigEndian.PutUint64(file, uint64(time.Now().UnixNano()))
	binary.BigEndian.PutUint64(file[8:], uint64(i)<<32|uint64(n))
	_, err := s.put(ctx, i, file, "application/octet-stream")
	return err
}

func (s *smallRun) download(ctx context.Context, i, n int) error {
	_, err := s.users[i].do(ctx, "GET", "/_matrix/client/v1/media/download/"+s.files[(i+n)%len(s.files)], nil, time.Minute)
	return err
}

func (s *smallRun) thumbnail(ctx context.Context, i, n int) error {
	at := n*len(s.users) + i
	if at >= len(s.files) {
		return errEnough
	}
	_, err := s.users[i].do(ctx, "GET", "/_matrix/client/v1/media/thumbnail/"+s.files[at]+"?width=640&height=480&method=scale",
		nil, time.Minute)
	return err
}

// uploads stores n files that differ in their last bytes, which no picture format reads.
func (s *smallRun) uploads(ctx context.Context, n int, file []byte) error {
	kind := "application/octet-stream"
	if s.Kind == "thumbnail" {
		kind = "image/jpeg"
	}
	for k := range n {
		id, err := s.put(ctx, 0, fmt.Appendf(bytes.Clone(file), "%d %d", time.Now().UnixNano(), k), kind)
		if err != nil {
			return err
		}
		s.files = append(s.files, id)
	}
	return nil
}

func (s *smallRun) put(ctx context.Context, i int, file []byte, kind string) (string, error) {
	u := s.users[i]
	u.kind = kind
	defer func() { u.kind = "" }()
	uri, err := u.call(ctx, "POST", "/_matrix/media/v3/upload", file, "content_uri")
	return uri[min(len(uri), len("mxc://")):], err
}

// random makes bytes that do not compress.
func random(n int) []byte {
	out := make([]byte, max(n, 64))
	x := uint64(time.Now().UnixNano()) | 1
	for i := range out {
		x ^= x << 13
		x ^= x >> 7
		x ^= x << 17
		out[i] = byte(x)
	}
	return out
}

// photograph is a JPEG of so many megapixels with the smooth areas and edges of a photograph.
func photograph(megapixels int) ([]byte, error) {
	w, h := 1000*max(1, megapixels)/3, 3000
	if megapixels < 3 {
		w, h = 1000, 1000*max(1, megapixels)
	}
	img := image.NewYCbCr(image.Rect(0, 0, w, h), image.YCbCrSubsampleRatio420)
	for y := range h {
		for x := range w {
			img.Y[img.YOffset(x, y)] = byte((x*x/97 + y*x/53 + y) >> 3)
		}
	}
	for i := range img.Cb {
		img.Cb[i], img.Cr[i] = byte(i>>9), byte(i>>11)
	}
	var b bytes.Buffer
	err := jpeg.Encode(&b, img, &jpeg.Options{Quality: 88})
	return b.Bytes(), err
}
