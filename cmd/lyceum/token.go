package main

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"strconv"
	"strings"
	"text/tabwriter"
	"time"

	"lyceum/ops/users"
	"lyceum/platform/conf"
)

type tokenCommands struct {
	New    tokenNewCommand    `cmd:"" help:"Make a registration token, with which people register."`
	List   tokenListCommand   `cmd:"" help:"List the registration tokens."`
	Revoke tokenRevokeCommand `cmd:"" help:"Remove a registration token."`
}

type tokenNewCommand struct {
	sources `embed:""`
	Uses    int64         `help:"How many people may register with it; 0 is without end." default:"1" placeholder:"N"`
	Expires conf.Duration `help:"How long it is valid, such as 7d or 12h; 0 is for ever." default:"0" placeholder:"DURATION"`
	Name    string        `help:"The token itself; one is made up without it." placeholder:"TOKEN"`
}

func (c *tokenNewCommand) Run(ctx context.Context) error {
	if c.Uses < 0 || c.Expires < 0 {
		return errors.New("--uses and --expires: expected no negative number")
	}
	return c.with(ctx, false, func(u *users.Users) error {
		token, err := u.NewToken(ctx, c.Name, c.Uses, c.Expires.D())
		if err == nil {
			fmt.Println(token)
		}
		return err
	})
}

type tokenListCommand struct {
	sources `embed:""`
}

func (c *tokenListCommand) Run(ctx context.Context) error {
	return c.with(ctx, false, func(u *users.Users) error {
		tokens, err := u.Tokens(ctx)
		if err != nil {
			return err
		}
		t := table("TOKEN", "USES", "USED", "UNDER WAY", "EXPIRES", "MAKES")
		for _, k := range tokens {
			uses, expires, makes := "no limit", "never", "user"
			if k.UsesAllowed > 0 {
				uses = strconv.FormatInt(k.UsesAllowed, 10)
			}
			if k.Expires > 0 {
				expires = moment(k.Expires)
			}
			if k.Admin {
				makes = "administrator"
			}
			t.row(k.Token, uses, strconv.FormatInt(k.Completed, 10), strconv.FormatInt(k.Pending, 10), expires, makes)
		}
		return t.Flush()
	})
}

type tokenRevokeCommand struct {
	sources `embed:""`
	Token   string `arg:"" help:"The token."`
}

func (c *tokenRevokeCommand) Run(ctx context.Context) error {
	return c.with(ctx, false, func(u *users.Users) error {
		err := u.RevokeToken(ctx, c.Token)
		if err == nil {
			fmt.Println("revoke:", c.Token)
		}
		return err
	})
}

type reportsCommands struct {
	List  reportsListCommand  `cmd:"" help:"List what users reported, the newest first."`
	Show  reportsShowCommand  `cmd:"" help:"Show a report, and the event that it is about."`
	Close reportsCloseCommand `cmd:"" help:"Remove a report that was dealt with."`
}

type reportsListCommand struct {
	sources `embed:""`
	Limit   int `help:"How many." default:"50"`
}

func (c *reportsListCommand) Run(ctx context.Context) error {
	if c.Limit < 1 {
		return errors.New("--limit: expected a number above 0")
	}
	return c.with(ctx, false, func(u *users.Users) error {
		reports, err := u.Reports(ctx, c.Limit)
		if err != nil {
			return err
		}
		t := table("ID", "RECEIVED", "REPORTER", "ROOM", "EVENT", "USER", "REASON")
		for _, r := range reports {
			t.row(r.ID, moment(r.TS), r.Reporter, r.RoomID, r.EventID, r.UserID, r.Reason)
		}
		return t.Flush()
	})
}

type reportsShowCommand struct {
	sources `embed:""`
	ID      string `arg:"" help:"Id of the report, from lyceum reports list."`
}

func (c *reportsShowCommand) Run(ctx context.Context) error {
	return c.with(ctx, false, func(u *users.Users) error {
		r, err := u.Report(ctx, c.ID)
		if err != nil {
			return err
		}
		t := table("id", r.ID)
		for _, line := range [][2]string{
			{"received", moment(r.TS)}, {"reporter", r.Reporter}, {"room", r.RoomID}, {"event", r.EventID}, {"user", r.UserID}, {"reason", r.Reason},
		} {
			t.row(line[0], line[1])
		}
		if err := t.Flush(); err != nil || r.EventID == "" {
			return err
		}
		if r.Event == nil {
			fmt.Println("\nthe event is not there any more")
			return nil
		}
		var text bytes.Buffer
		if err := json.Indent(&text, r.Event, "", "  "); err != nil {
			return err
		}
		fmt.Println()
		for line := range strings.Lines(text.String()) {
			fmt.Println(printable(strings.TrimSuffix(line, "\n")))
		}
		return nil
	})
}

type reportsCloseCommand struct {
	sources `embed:""`
	ID      string `arg:"" help:"Id of the report, from lyceum reports list."`
}

func (c *reportsCloseCommand) Run(ctx context.Context) error {
	return c.with(ctx, false, func(u *users.Users) error {
		err := u.CloseReport(ctx, c.ID)
		if err == nil {
			fmt.Println("close:", c.ID)
		}
		return err
	})
}

// printable is a text that can not change the terminal.
func printable(text string) string {
	return strings.Map(func(r rune) rune {
		if !strconv.IsPrint(r) {
			return ' '
		}
		return r
	}, text)
}

// tabular is a table for the terminal.
type tabular struct{ *tabwriter.Writer }

func table(head ...string) tabular {
	t := tabular{tabwriter.NewWriter(os.Stdout, 0, 0, 2, ' ', 0)}
	t.row(head...)
	return t
}

// row writes a line; what users wrote can not change the terminal, and an empty cell is a minus sign.
func (t tabular) row(cells ...string) {
	for i, cell := range cells {
		cell = printable(cell)
		if cell == "" {
			cell = "-"
		}
		cells[i] = cell
	}
	fmt.Fprintln(t, strings.Join(cells, "\t"))
}

// moment is a time in ms for people.
func moment(ms int64) string {
	if ms == 0 {
		return ""
	}
	return time.UnixMilli(ms).Format("2006-01-02 15:04")
}
