package users_test

import (
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"os"
	"strings"
	"testing"
	"time"

	"lyceum/ops/opstest"
)

func TestMain(m *testing.M) { os.Exit(opstest.Main(m)) }

// TestUsersTokensAndReportsOnTheCommandLine: beside a running process, over a stopped one, and in a fleet.
func TestUsersTokensAndReportsOnTheCommandLine(t *testing.T) {
	shapes := map[string]func(t *testing.T) *opstest.Site{
		"running": func(t *testing.T) *opstest.Site {
			s := opstest.NewUpSite(t, "LYCEUM_ACCOUNTS_REGISTRATION=token", "LYCEUM_HTTP_RATE_LIMITS_OFF=true").Called("users.test")
			s.Process(t, s.Data)
			return s
		},
		"stopped": func(t *testing.T) *opstest.Site {
			s := opstest.NewUpSite(t).Called("users.test")
			s.Process(t, s.Data)
			s.Stop()
			return s
		},
		"fleet": startFleet,
	}
	for name, open := range shapes {
		t.Run(name, func(t *testing.T) {
			s := open(t)
			shows := func(words []string, args ...string) {
				t.Helper()
				out := strings.Join(strings.Fields(s.MustRun(t, args...)), " ")
				for _, word := range words {
					if !strings.Contains(out, word) {
						t.Errorf("lyceum %v: expected %q, found %s", args, word, out)
					}
				}
			}
			if out := s.MustRun(t, "user", "add", "--admin", "alice"); !strings.Contains(out, "invitation token") {
				t.Errorf("the end of the invitation is not said: %s", out)
			}
			s.MustRun(t, "user", "add", "bob")
			shows([]string{"@alice:users.test administrator active", "@bob:users.test user active"}, "user", "list")
			shows([]string{"@bob:users.test"}, "user", "promote", "bob")
			shows([]string{"@bob:users.test administrator active"}, "user", "list")
			s.MustRun(t, "user", "demote", "@bob:users.test")
			s.MustRun(t, "user", "lock", "bob")
			shows([]string{"@bob:users.test user locked"}, "user", "list")
			s.MustRun(t, "user", "unlock", "bob")
			s.MustRun(t, "user", "suspend", "bob")
			shows([]string{"@bob:users.test user suspended"}, "user", "list")
			s.MustRun(t, "user", "unsuspend", "bob")
			s.MustFail(t, []string{"@alice:users.test is the last administrator", "--force"}, "user", "demote", "alice")
			s.MustFail(t, []string{"@alice:users.test is the last administrator", "--force"}, "user", "lock", "alice")
			s.MustFail(t, []string{"@alice:users.test is the last administrator", "--force"}, "user", "deactivate", "alice")
			shows([]string{"demote: @alice:users.test"}, "user", "demote", "--force", "alice")
			s.MustRun(t, "user", "promote", "alice")

			s.MustRun(t, "user", "deactivate", "bob")
			s.MustFail(t, []string{"@bob:users.test is deactivated already"}, "user", "deactivate", "bob")
			for _, args := range [][]string{{"promote"}, {"unlock"}, {"suspend"}, {"passwd"}, {"token"}} {
				s.MustFail(t, []string{"@bob:users.test is deactivated"}, append(append([]string{"user"}, args...), "bob")...)
			}
			shows([]string{"@alice:users.test administrator active", "@bob:users.test user deactivated"}, "user", "list")
			s.MustFail(t, []string{"there is no user @carol:users.test"}, "user", "lock", "carol")
			s.MustRun(t, "user", "add", "erin")
			s.MustRun(t, "user", "deactivate", "erin")
			shows([]string{"deactivate: @erin:users.test"}, "user", "deactivate", "--erase", "erin")
			shows([]string{"@erin:users.test user erased"}, "user", "list")
			s.MustFail(t, []string{"@erin:users.test is deactivated already"}, "user", "deactivate", "--erase", "erin")

			shows([]string{"welcome"}, "token", "new", "--name", "welcome", "--uses", "2", "--expires", "7d")
			made := strings.TrimSpace(s.MustRun(t, "token", "new", "--uses", "0"))
			shows([]string{"welcome 2 0 0 20", made + " no limit 0 0 never user"}, "token", "list")
			s.MustFail(t, []string{"already"}, "token", "new", "--name", "welcome")
			if name == "running" {
				if _, err := join(t, s, "dora", "welcome"); err != nil {
					t.Error(err)
				}
				shows([]string{"welcome 2 1 0"}, "token", "list")
			}
			shows([]string{"revoke: welcome"}, "token", "revoke", "welcome")
			s.MustFail(t, []string{"there is no registration token welcome"}, "token", "revoke", "welcome")
			shows([]string{"ID RECEIVED REPORTER ROOM EVENT USER REASON"}, "reports", "list")
			if name != "stopped" {
				alice := strings.TrimSpace(s.MustRun(t, "user", "token", "alice"))
				post(t, s, alice, "/_matrix/client/v3/users/@bob:users.test/report", `{"reason":"it shouts\u001b[31m"}`)
				shows([]string{"@alice:users.test - - @bob:users.test it shouts [31m"}, "reports", "list")
				id := strings.Fields(s.MustRun(t, "reports", "list"))[7]
				shows([]string{"id " + id, "user @bob:users.test", "reason it shouts [31m"}, "reports", "show", id)
				shows([]string{"close: " + id}, "reports", "close", id)
				for _, command := range []string{"show", "close"} {
					s.MustFail(t, []string{"there is no report " + id}, "reports", command, id)
				}
				var room struct {
					ID string `json:"room_id"`
				}
				if err := json.Unmarshal(post(t, s, alice, "/_matrix/client/v3/createRoom", `{"name":"a bad room"}`), &room); err != nil {
					t.Fatal(err)
				}
				var members struct {
					Chunk []struct {
						ID string `json:"event_id"`
					} `json:"chunk"`
				}
				in := "/_matrix/client/v3/rooms/" + room.ID
				if err := json.Unmarshal(get(t, s, alice, in+"/messages?dir=b"), &members); err != nil || len(members.Chunk) == 0 {
					t.Fatal(err, members)
				}
				post(t, s, alice, in+"/report/"+members.Chunk[0].ID, `{"reason":"bad"}`)
				id = strings.Fields(s.MustRun(t, "reports", "list"))[7]
				shows([]string{"reason bad", members.Chunk[0].ID, `"content":`, `"sender": "@alice:users.test"`}, "reports", "show", id)
			}
		})
	}
}

// TestWhatIsRefusedToGuests: they are no administrators and have no password.
func TestWhatIsRefusedToGuests(t *testing.T) {
	s := opstest.NewUpSite(t, "LYCEUM_ACCOUNTS_GUESTS=true").Called("users.test")
	s.Process(t, s.Data)
	var guest struct {
		UserID string `json:"user_id"`
	}
	if err := json.Unmarshal(post(t, s, "", "/_matrix/client/v3/register?kind=guest", `{}`), &guest); err != nil {
		t.Fatal(err)
	}
	for _, change := range []string{"promote", "passwd"} {
		s.MustFail(t, []string{guest.UserID + ": this is a guest: a guest becomes a user by registering"}, "user", change, guest.UserID)
	}
	s.MustRun(t, "user", "lock", guest.UserID)
}

// TestUpSaysHowToBegin: as the first start of a process does, until somebody is administrator.
func TestUpSaysHowToBegin(t *testing.T) {
	s := opstest.NewUpSite(t, "LYCEUM_ACCOUNTS_REGISTRATION=token").Called("users.test")
	out := s.Up(t)
	_, token, found := strings.Cut(out, "the first administrator registers with this token: ")
	token, _, _ = strings.Cut(token, "\n")
	if !found || !strings.Contains(out, s.URL) {
		t.Fatalf("the start says %s", out)
	}
	if _, err := join(t, s, "alice", token); err != nil {
		t.Error(err)
	}
	if list := s.MustRun(t, "user", "list"); !strings.Contains(list, "administrator") {
		t.Errorf("found %s", list)
	}
}

// TestALockEndsWhatWaits: a request to /sync that waits ends with the lock of its user, not when there are news.
func TestALockEndsWhatWaits(t *testing.T) {
	for name, open := range map[string]func(t *testing.T) *opstest.Site{
		"running": func(t *testing.T) *opstest.Site {
			s := opstest.NewUpSite(t).Called("users.test")
			s.Process(t, s.Data)
			return s
		},
		"fleet": startFleet,
	} {
		t.Run(name, func(t *testing.T) {
			s := open(t)
			s.MustRun(t, "user", "add", "bob")
			token := strings.TrimSpace(s.MustRun(t, "user", "token", "bob"))
			next, waits := make(chan string, 1), make(chan string, 1)
			get := func(query string) (int, string) {
				req, err := http.NewRequest(http.MethodGet, s.URL+"/_matrix/client/v3/sync?"+query, nil)
				if err != nil {
					t.Error(err)
					return 0, ""
				}
				req.Header.Set("Authorization", "Bearer "+token)
				res, err := http.DefaultClient.Do(req)
				if err != nil {
					t.Error(err)
					return 0, ""
				}
				defer res.Body.Close()
				text, _ := io.ReadAll(res.Body)
				return res.StatusCode, string(text)
			}
			go func() {
				since := ""
				for range 20 { // until there is nothing new
					_, text := get("timeout=500&since=" + url.QueryEscape(since))
					var page struct {
						Next string `json:"next_batch"`
					}
					_ = json.Unmarshal([]byte(text), &page)
					if page.Next == since {
						break
					}
					since = page.Next
				}
				next <- since
				status, text := get("timeout=60000&since=" + url.QueryEscape(since))
				waits <- fmt.Sprint(status, text)
			}()
			<-next
			time.Sleep(time.Second)
			began := time.Now()
			s.MustRun(t, "user", "lock", "bob")
			if got := <-waits; !strings.Contains(got, "M_USER_LOCKED") || time.Since(began) > 30*time.Second {
				t.Errorf("after %v: %s", time.Since(began), got)
			}
		})
	}
}

// post sends a request with a body and wants 200.
func post(t *testing.T, s *opstest.Site, token, path, body string) []byte {
	t.Helper()
	status, answer := try(t, s, token, path, body)
	if status != http.StatusOK {
		t.Errorf("POST %s: %d %s", path, status, answer)
	}
	return answer
}

func get(t *testing.T, s *opstest.Site, token, path string) []byte {
	t.Helper()
	status, answer := ask(t, s, http.MethodGet, token, path, "")
	if status != http.StatusOK {
		t.Errorf("GET %s: %d %s", path, status, answer)
	}
	return answer
}

func try(t *testing.T, s *opstest.Site, token, path, body string) (int, []byte) {
	t.Helper()
	return ask(t, s, http.MethodPost, token, path, body)
}

func ask(t *testing.T, s *opstest.Site, method, token, path, body string) (int, []byte) {
	t.Helper()
	req, err := http.NewRequest(method, s.URL+path, strings.NewReader(body))
	if err != nil {
		t.Fatal(err)
	}
	if token != "" {
		req.Header.Set("Authorization", "Bearer "+token)
	}
	res, err := http.DefaultClient.Do(req)
	if err != nil {
		t.Fatal(err)
	}
	defer res.Body.Close()
	answer, err := io.ReadAll(res.Body)
	if err != nil {
		t.Fatal(err)
	}
	return res.StatusCode, answer
}

// join registers a user with a registration token.
func join(t *testing.T, s *opstest.Site, name, token string) ([]byte, error) {
	t.Helper()
	const path = "/_matrix/client/v3/register"
	_, answer := try(t, s, "", path, fmt.Sprintf(`{"username":%q,"password":"a long password"}`, name))
	var begun struct {
		Session string `json:"session"`
	}
	if err := json.Unmarshal(answer, &begun); err != nil {
		return answer, err
	}
	for _, stage := range []string{fmt.Sprintf(`"type":"m.login.registration_token","token":%q`, token), `"type":"m.login.dummy"`} {
		body := fmt.Sprintf(`{"username":%q,"password":"a long password","auth":{%s,"session":%q}}`, name, stage, begun.Session)
		status, out := try(t, s, "", path, body)
		if status == http.StatusOK {
			return out, nil
		}
		answer = out
	}
	return answer, fmt.Errorf("not registered: %s", answer)
}

// startFleet starts two processes. Commands run in another directory than theirs.
func startFleet(t *testing.T) *opstest.Site {
	t.Helper()
	s := opstest.NewSite(t, "postgres").Called("users.test")
	s.Start(t)
	s.Data = t.TempDir()
	s.Environ = append(s.Environ, "LYCEUM_SERVER_DATA="+s.Data)
	return s
}
