package main

import (
	"bufio"
	"cmp"
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"os"
	"strings"

	"github.com/alecthomas/kong"

	"lyceum/accounts"
	"lyceum/ops/users"
)

type userCommands struct {
	Add    userAddCommand    `cmd:"" help:"Make a user."`
	Passwd userPasswdCommand `cmd:"" help:"Set a user's password and end the sessions."`
	Token  userTokenCommand  `cmd:"" help:"Print a fresh access token of a user, of a new device each time."`

	List       userListCommand       `cmd:"" help:"List the users."`
	Promote    userRightCommand      `cmd:"" help:"Make a user an administrator of the server."`
	Demote     userEndCommand        `cmd:"" help:"Make an administrator a user like the others."`
	Lock       userEndCommand        `cmd:"" help:"Refuse all requests of a user; the sessions stay."`
	Unlock     userRightCommand      `cmd:"" help:"End the lock of a user."`
	Suspend    userRightCommand      `cmd:"" help:"Let a user read, and do little else."`
	Unsuspend  userRightCommand      `cmd:"" help:"End the suspension of a user."`
	Deactivate userDeactivateCommand `cmd:"" help:"End an account for good; its name stays taken."`
}

type userListCommand struct {
	sources `embed:""`
}

func (c *userListCommand) Run(ctx context.Context) error {
	return c.with(ctx, false, func(u *users.Users) error {
		t := table("USER", "IS", "STATE", "MADE", "LAST LOGIN")
		err := u.List(ctx, func(user accounts.User) error {
			is := cmp.Or(user.Kind, "user")
			if user.Appservice != "" {
				is = "of " + user.Appservice
			}
			if user.Admin {
				is = "administrator"
			}
			t.row(user.UserID, is, state(user), moment(user.Created), moment(user.LastLogin))
			return nil
		})
		return errors.Join(err, t.Flush())
	})
}

func state(u accounts.User) string {
	switch {
	case u.Erased:
		return "erased"
	case u.Deactivated:
		return "deactivated"
	case u.Locked:
		return "locked"
	case u.Suspended:
		return "suspended"
	}
	return "active"
}

type userRightCommand struct {
	sources `embed:""`
	Name    string `arg:"" help:"Name or user id."`
}

func (c *userRightCommand) Run(ctx context.Context, k *kong.Context) error {
	return c.set(ctx, k.Selected().Name, false)
}

func (c *userRightCommand) set(ctx context.Context, change string, force bool) error {
	return c.with(ctx, false, func(u *users.Users) error {
		invitation, err := u.Invitation(ctx)
		if err != nil {
			return err
		}
		id, err := u.SetRight(ctx, change, c.Name, force)
		if err == nil {
			fmt.Println(change+":", id)
		}
		if err == nil && invitation != "" && change == "promote" {
			fmt.Println(invitationEnded)
		}
		return err
	})
}

// userEndCommand is a userRightCommand that may end the last administrator's rights.
type userEndCommand struct {
	userRightCommand `embed:""`
	Force            bool `help:"Also if the server has no other administrator."`
}

func (c *userEndCommand) Run(ctx context.Context, k *kong.Context) error {
	return c.set(ctx, k.Selected().Name, c.Force)
}

type userDeactivateCommand struct {
	sources `embed:""`
	Name    string `arg:"" help:"Name or user id."`
	Erase   bool   `help:"Also remove profile and account data, and hide the messages from those who have not seen them."`
	Force   bool   `help:"Also if the server has no other administrator."`
}

func (c *userDeactivateCommand) Run(ctx context.Context) error {
	return c.with(ctx, false, func(u *users.Users) error {
		id, err := u.Deactivate(ctx, c.Name, c.Erase, c.Force)
		if err == nil {
			fmt.Println("deactivate:", id)
		}
		return err
	})
}

// invitationEnded is said when somebody became the first administrator without the token that was printed for that.
const invitationEnded = "the server has an administrator now: the invitation token that its first start printed is not valid any more"

type userAddCommand struct {
	newPassword `embed:""`
	Name        string `arg:"" help:"Name, the part of the user id before the colon."`
	Admin       bool   `help:"Make the user an administrator of the server."`
}

func (c *userAddCommand) Run(ctx context.Context) error {
	return c.with(ctx, true, func(u *users.Users, password string) error {
		if u.Made {
			fmt.Fprintln(os.Stderr, "there was no server yet: one is made")
		}
		invitation, err := u.Invitation(ctx)
		if err != nil {
			return err
		}
		id, err := u.Add(ctx, c.Name, password, c.Admin)
		if err == nil {
			fmt.Println("made", id)
		}
		if err == nil && invitation != "" && c.Admin {
			fmt.Println(invitationEnded)
		}
		return err
	})
}

type userPasswdCommand struct {
	newPassword `embed:""`
	Name        string `arg:"" help:"Name or user id."`
}

func (c *userPasswdCommand) Run(ctx context.Context) error {
	return c.with(ctx, false, func(u *users.Users, password string) error { return u.SetPassword(ctx, c.Name, password) })
}

type userTokenCommand struct {
	sources `embed:""`
	Name    string `arg:"" help:"Name or user id."`
}

// Help is shown by lyceum user token --help.
func (userTokenCommand) Help() string {
	return "Each time a new device named \"command line\" stays among the user's sessions: end it there, or with a log-out (POST /logout) " +
		"with the token, when it is not needed any more."
}

func (c *userTokenCommand) Run(ctx context.Context) error {
	return c.with(ctx, false, func(u *users.Users) error {
		token, err := u.Token(ctx, c.Name)
		if err != nil {
			return err
		}
		fmt.Println(token)
		return nil
	})
}

func (s *sources) with(ctx context.Context, makes bool, fn func(*users.Users) error) error {
	config, err := s.loadFor()
	if err != nil {
		return err
	}
	return users.WithUsers(ctx, config, makes, fn)
}

// newPassword is what the commands that set a password share.
type newPassword struct {
	sources  `embed:""`
	Password string `help:"File with the password, - for standard input; without it one is made and printed." placeholder:"FILE" type:"path"`
}

// with calls fn with the password and prints it when it was made here.
func (n *newPassword) with(ctx context.Context, makes bool, fn func(u *users.Users, password string) error) error {
	password, made, err := readPassword(n.Password)
	if err != nil {
		return err
	}
	return n.sources.with(ctx, makes, func(u *users.Users) error {
		err := fn(u, password)
		if err == nil && made {
			fmt.Println("password:", password)
		}
		return err
	})
}

// readPassword reads the first line of a file; without one it makes a password.
func readPassword(file string) (password string, made bool, err error) {
	if file == "" {
		return rand.Text(), true, nil
	}
	f := os.Stdin
	if !strings.HasSuffix(file, "/-") && file != "-" {
		if f, err = os.Open(file); err != nil {
			return "", false, err
		}
		defer f.Close()
	}
	line, err := bufio.NewReader(f).ReadString('\n')
	if line = strings.TrimRight(line, "\r\n"); line == "" {
		return "", false, errors.Join(errors.New("the password is empty"), err)
	}
	return line, false, nil
}
