// Two people with mautrix-go and its pure Go encryption, in an encrypted room: mautrix BASE. Prints a line for each step.
// It is a module of its own, so that none of its libraries are Lyceum's.
package main

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"
	"slices"
	"sync"
	"time"

	"maunium.net/go/mautrix"
	"maunium.net/go/mautrix/crypto"
	"maunium.net/go/mautrix/crypto/attachment"
	"maunium.net/go/mautrix/crypto/cryptohelper"
	"maunium.net/go/mautrix/crypto/verificationhelper"
	"maunium.net/go/mautrix/event"
	"maunium.net/go/mautrix/id"
	"maunium.net/go/mautrix/pushrules"
)

func main() {
	ctx, cancel := context.WithTimeout(context.Background(), 3*time.Minute)
	defer cancel()
	if err := run(ctx, os.Args[1]); err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
	fmt.Println("done")
}

// person is a client with what it has seen.
type person struct {
	*mautrix.Client
	crypto       *cryptohelper.CryptoHelper
	verification *verificationhelper.VerificationHelper
	password     string

	mu       sync.Mutex
	events   []*event.Event // decrypted
	typing   []id.UserID
	read     map[id.UserID]id.EventID
	asked    id.VerificationTransactionID
	ready    bool
	emoji    string
	verified bool
	failed   string
}

func login(ctx context.Context, base, name string) (*person, error) {
	client, err := mautrix.NewClient(base, "", "")
	if err != nil {
		return nil, err
	}
	p := &person{Client: client, password: name + "-password", read: map[id.UserID]id.EventID{}}
	client.StateStore = mautrix.NewMemoryStateStore()
	if _, err := client.Login(ctx, &mautrix.ReqLogin{
		Type: mautrix.AuthTypePassword, Identifier: mautrix.UserIdentifier{Type: mautrix.IdentifierTypeUser, User: name},
		Password: p.password, InitialDeviceDisplayName: "mautrix", StoreCredentials: true,
	}); err != nil {
		return nil, err
	}
	syncer := client.Syncer.(*mautrix.DefaultSyncer)
	syncer.OnEvent(client.StateStoreSyncHandler)
	if p.crypto, err = cryptohelper.NewCryptoHelper(client, []byte("pickle"), crypto.NewMemoryStore(nil)); err != nil {
		return nil, err
	}
	if err := p.crypto.Init(ctx); err != nil {
		return nil, err
	}
	client.Crypto = p.crypto
	p.verification = verificationhelper.NewVerificationHelper(client, p.crypto.Machine(), nil, p, false, false, true)
	if err := p.verification.Init(ctx); err != nil {
		return nil, err
	}
	client.Verification = p.verification
	syncer.OnEventType(event.EventMessage, p.take)
	syncer.OnEventType(event.EphemeralEventTyping, p.take)
	syncer.OnEventType(event.EphemeralEventReceipt, p.take)
	go func() { _ = client.SyncWithContext(ctx) }()
	return p, nil
}

func (p *person) take(_ context.Context, e *event.Event) {
	p.mu.Lock()
	defer p.mu.Unlock()
	switch content := e.Content.Parsed.(type) {
	case *event.TypingEventContent:
		p.typing = content.UserIDs
	case *event.ReceiptEventContent:
		for eventID, of := range *content {
			for user := range of[event.ReceiptTypeRead] {
				p.read[user] = eventID
			}
		}
	default:
		p.events = append(p.events, e)
	}
}

func (p *person) VerificationRequested(_ context.Context, txn id.VerificationTransactionID, _ id.UserID, _ id.DeviceID) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.asked = txn
}

func (p *person) VerificationReady(_ context.Context, _ id.VerificationTransactionID, _ id.DeviceID, _, _ bool, _ *verificationhelper.QRCode) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.ready = true
}

func (p *person) VerificationCancelled(_ context.Context, _ id.VerificationTransactionID, code event.VerificationCancelCode, reason string) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.failed = fmt.Sprint(code, ": ", reason)
}

func (p *person) VerificationDone(context.Context, id.VerificationTransactionID, event.VerificationMethod) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.verified = true
}

func (p *person) ShowSAS(_ context.Context, _ id.VerificationTransactionID, emoji []rune, _ []string, _ []int) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.emoji = string(emoji)
}

// until waits for something that the person sees.
func (p *person) until(ctx context.Context, what string, condition func() bool) error {
	for range 1000 {
		p.mu.Lock()
		ok, failed := condition(), p.failed
		p.mu.Unlock()
		if ok {
			fmt.Println("ok", what)
			return nil
		}
		if failed != "" {
			return fmt.Errorf("%s: %s", what, failed)
		}
		select {
		case <-ctx.Done():
			return fmt.Errorf("waited in vain: %s", what)
		case <-time.After(30 * time.Millisecond):
		}
	}
	return fmt.Errorf("waited in vain: %s", what)
}

// hears waits for a text and returns its id.
func (p *person) hears(ctx context.Context, text string) (e *event.Event, err error) {
	err = p.until(ctx, "it is read: "+text, func() bool {
		i := slices.IndexFunc(p.events, func(e *event.Event) bool { return e.Content.AsMessage().Body == text })
		if i >= 0 {
			e = p.events[i]
		}
		return i >= 0
	})
	return e, err
}

// steps runs named steps until one fails.
func steps(list ...any) error {
	for i := 0; i < len(list); i += 2 {
		if err := list[i+1].(func() error)(); err != nil {
			return fmt.Errorf("%s: %w", list[i], err)
		}
		fmt.Println("ok", list[i])
	}
	return nil
}

func run(ctx context.Context, base string) error {
	alice, err := login(ctx, base, "alice")
	if err != nil {
		return fmt.Errorf("alice: %w", err)
	}
	bob, err := login(ctx, base, "bob")
	if err != nil {
		return fmt.Errorf("bob: %w", err)
	}
	made, err := alice.CreateRoom(ctx, &mautrix.ReqCreateRoom{
		Preset: "private_chat", Name: "Seminar", Invite: []id.UserID{bob.UserID},
		InitialState: []*event.Event{{Type: event.StateEncryption, Content: event.Content{Parsed: &event.EncryptionEventContent{Algorithm: id.AlgorithmMegolmV1}}}},
	})
	if err != nil {
		return fmt.Errorf("create a room: %w", err)
	}
	room := made.RoomID
	if _, err := bob.JoinRoomByID(ctx, room); err != nil {
		return fmt.Errorf("join: %w", err)
	}
	knows := func(p, other *person) func() bool {
		return func() bool {
			encrypted, _ := p.StateStore.IsEncrypted(ctx, room)
			return encrypted && p.StateStore.IsInRoom(ctx, room, other.UserID) && p.StateStore.IsInRoom(ctx, room, p.UserID)
		}
	}
	if err := errors.Join(alice.until(ctx, "alice sees bob", knows(alice, bob)), bob.until(ctx, "bob sees alice", knows(bob, alice))); err != nil {
		return err
	}
	if err := talk(ctx, alice, bob, room); err != nil {
		return err
	}
	if err := verify(ctx, alice, bob); err != nil {
		return err
	}
	return settings(ctx, alice, bob, room)
}

// talk sends texts and a file both ways, in an encrypted room.
func talk(ctx context.Context, alice, bob *person, room id.RoomID) error {
	if _, err := alice.SendText(ctx, room, "hello Bob"); err != nil {
		return err
	}
	heard, err := bob.hears(ctx, "hello Bob")
	if err != nil {
		return err
	}
	if _, err := bob.SendText(ctx, room, "hello Alice"); err != nil {
		return err
	}
	if _, err := alice.hears(ctx, "hello Alice"); err != nil {
		return err
	}
	data := bytes.Repeat([]byte("a file that the server can not read\n"), 3000)
	file := attachment.NewEncryptedFile()
	up, err := alice.UploadBytes(ctx, file.Encrypt(data), "application/octet-stream")
	if err != nil {
		return fmt.Errorf("upload: %w", err)
	}
	if _, err := alice.SendMessageEvent(ctx, room, event.EventMessage, &event.MessageEventContent{
		MsgType: event.MsgFile, Body: "notes.txt", File: &event.EncryptedFileInfo{EncryptedFile: *file, URL: up.ContentURI.CUString()},
	}); err != nil {
		return fmt.Errorf("send a file: %w", err)
	}
	e, err := bob.hears(ctx, "notes.txt")
	if err != nil {
		return err
	}
	got := e.Content.AsMessage().File
	uri, err := got.URL.Parse()
	if err != nil {
		return err
	}
	cipher, err := bob.DownloadBytes(ctx, uri)
	if err != nil {
		return fmt.Errorf("download: %w", err)
	}
	if plain, err := got.Decrypt(cipher); err != nil || !bytes.Equal(plain, data) {
		return fmt.Errorf("the file is another one: %w", err)
	}
	if _, err := alice.UserTyping(ctx, room, true, 20*time.Second); err != nil {
		return err
	}
	if err := bob.until(ctx, "alice types", func() bool { return slices.Contains(bob.typing, alice.UserID) }); err != nil {
		return err
	}
	if err := bob.MarkRead(ctx, room, heard.ID); err != nil {
		return err
	}
	return alice.until(ctx, "bob has read it", func() bool { return alice.read[bob.UserID] == heard.ID })
}

// verify sets up cross-signing and compares emoji.
func verify(ctx context.Context, alice, bob *person) error {
	for _, p := range []*person{alice, bob} {
		m := p.crypto.Machine()
		_, keys, err := m.GenerateAndUploadCrossSigningKeysWithPassword(ctx, p.password, "")
		if err != nil {
			return fmt.Errorf("cross-signing: %w", err)
		}
		m.CrossSigningKeys = keys
		if err := errors.Join(m.SignOwnDevice(ctx, m.OwnIdentity()), m.SignOwnMasterKey(ctx)); err != nil {
			return fmt.Errorf("sign: %w", err)
		}
		fmt.Println("ok cross-signing of", p.UserID)
	}
	for _, p := range []*person{alice, bob} {
		if _, err := p.crypto.Machine().FetchKeys(ctx, []id.UserID{alice.UserID, bob.UserID}, true); err != nil {
			return fmt.Errorf("keys: %w", err)
		}
	}
	txn, err := alice.verification.StartVerification(ctx, bob.UserID)
	if err != nil {
		return fmt.Errorf("verification: %w", err)
	}
	if err := bob.until(ctx, "bob is asked", func() bool { return bob.asked != "" }); err != nil {
		return err
	}
	if err := bob.verification.AcceptVerification(ctx, bob.asked); err != nil {
		return fmt.Errorf("accept: %w", err)
	}
	if err := alice.until(ctx, "bob is ready", func() bool { return alice.ready }); err != nil {
		return err
	}
	if err := alice.verification.StartSAS(ctx, txn); err != nil {
		return fmt.Errorf("emoji: %w", err)
	}
	if err := errors.Join(alice.until(ctx, "alice sees emoji", func() bool { return alice.emoji != "" }), bob.until(ctx, "bob sees emoji", func() bool { return bob.emoji != "" })); err != nil {
		return err
	}
	if alice.emoji != bob.emoji {
		return fmt.Errorf("emoji differ: %s and %s", alice.emoji, bob.emoji)
	}
	// Both at once: who confirms when the other's proof has come compares it with its own key in this version, and fails.
	both := make(chan error, 2)
	for _, p := range []*person{alice, bob} {
		go func() { both <- p.verification.ConfirmSAS(ctx, txn) }()
	}
	if err := errors.Join(<-both, <-both); err != nil {
		return fmt.Errorf("confirm: %w", err)
	}
	if err := errors.Join(alice.until(ctx, "alice is done", func() bool { return alice.verified }), bob.until(ctx, "bob is done", func() bool { return bob.verified })); err != nil {
		return err
	}
	if trusted, err := alice.crypto.Machine().IsUserTrusted(ctx, bob.UserID); err != nil || !trusted {
		return fmt.Errorf("bob is not trusted: %w", err)
	}
	return nil
}

// settings changes a room, levels, push rules and a space, and searches.
func settings(ctx context.Context, alice, bob *person, room id.RoomID) error {
	mute := &mautrix.ReqPutPushRule{Actions: []*pushrules.PushAction{{Action: pushrules.ActionDontNotify}}}
	var levels event.PowerLevelsEventContent
	var space *mautrix.RespCreateRoom
	return steps(
		"a topic", func() error {
			_, err := alice.SendStateEvent(ctx, room, event.StateTopic, "", &event.TopicEventContent{Topic: "Second half"})
			return err
		},
		"the topic is read", func() error {
			var topic event.TopicEventContent
			err := bob.StateEvent(ctx, room, event.StateTopic, "", &topic)
			if err == nil && topic.Topic != "Second half" {
				err = fmt.Errorf("found %q", topic.Topic)
			}
			return err
		},
		"bob may not change it", func() error {
			if _, err := bob.SendStateEvent(ctx, room, event.StateTopic, "", &event.TopicEventContent{Topic: "mine"}); !errors.Is(err, mautrix.MForbidden) {
				return fmt.Errorf("expected M_FORBIDDEN, found %w", err)
			}
			return nil
		},
		"power levels", func() error {
			if err := alice.StateEvent(ctx, room, event.StatePowerLevels, "", &levels); err != nil {
				return err
			}
			levels.SetUserLevel(bob.UserID, 50)
			_, err := alice.SendStateEvent(ctx, room, event.StatePowerLevels, "", &levels)
			return err
		},
		"bob may change it now", func() error {
			_, err := bob.SendStateEvent(ctx, room, event.StateTopic, "", &event.TopicEventContent{Topic: "mine"})
			return err
		},
		"mute", func() error { return bob.PutPushRule(ctx, "global", pushrules.RoomRule, room.String(), mute) },
		"the rule as it was given", func() error {
			rule, err := bob.GetPushRule(ctx, "global", pushrules.RoomRule, room.String())
			if err == nil && (len(rule.Actions) != 1 || rule.Actions[0].Action != pushrules.ActionDontNotify) {
				err = fmt.Errorf("found %v", rule.Actions)
			}
			return err
		},
		"unmute", func() error { return bob.DeletePushRule(ctx, "global", pushrules.RoomRule, room.String()) },
		"members", func() error { _, err := bob.JoinedMembers(ctx, room); return err },
		"older messages", func() error {
			_, err := bob.Messages(ctx, room, "", "", mautrix.DirectionBackward, nil, 20)
			return err
		},
		"a space", func() (err error) {
			space, err = alice.CreateRoom(ctx, &mautrix.ReqCreateRoom{Name: "Institute", Preset: "public_chat", CreationContent: map[string]any{"type": "m.space"}})
			if err == nil {
				_, err = alice.SendStateEvent(ctx, space.RoomID, event.StateSpaceChild, room.String(), &event.SpaceChildEventContent{Via: []string{"e2e.test"}})
			}
			return err
		},
		"its rooms", func() error {
			list, err := alice.Hierarchy(ctx, space.RoomID, nil)
			if err == nil && len(list.Rooms) != 2 {
				err = fmt.Errorf("found %d rooms", len(list.Rooms))
			}
			return err
		},
		"a person is found", func() error {
			found, err := bob.SearchUserDirectory(ctx, "alice", 5)
			if err == nil && len(found.Results) == 0 {
				err = errors.New("nobody is found")
			}
			return err
		},
		"log-out", func() error { _, err := bob.Logout(ctx); return err },
	)
}
