package main

import (
	"bufio"
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"os"
	"strings"

	"lyceum/fleet"
)

type userCommands struct {
	Add    userAddCommand    `cmd:"" help:"Make a user."`
	Passwd userPasswdCommand `cmd:"" help:"Set a user's password and end the sessions."`
	Token  userTokenCommand  `cmd:"" help:"Print a fresh access token of a user."`
}

type userAddCommand struct {
	newPassword `embed:""`
	Name        string `arg:"" help:"Name, the part of the user id before the colon."`
	Admin       bool   `help:"Make the user an administrator of the server."`
}

func (c *userAddCommand) Run(ctx context.Context) error {
	return c.with(ctx, true, func(u *fleet.Users, password string) error {
		if u.Made {
			fmt.Fprintln(os.Stderr, "there was no server yet: one is made")
		}
		id, err := u.Add(ctx, c.Name, password, c.Admin)
		if err == nil {
			fmt.Println("made", id)
		}
		return err
	})
}

type userPasswdCommand struct {
	newPassword `embed:""`
	Name        string `arg:"" help:"Name or user id."`
}

func (c *userPasswdCommand) Run(ctx context.Context) error {
	return c.with(ctx, false, func(u *fleet.Users, password string) error { return u.SetPassword(ctx, c.Name, password) })
}

type userTokenCommand struct {
	sources `embed:""`
	Name    string `arg:"" help:"Name or user id."`
}

func (c *userTokenCommand) Run(ctx context.Context) error {
	return c.with(ctx, false, func(u *fleet.Users) error {
		token, err := u.Token(ctx, c.Name)
		if err != nil {
			return err
		}
		fmt.Println(token)
		return nil
	})
}

func (s *sources) with(ctx context.Context, makes bool, fn func(*fleet.Users) error) error {
	config, err := s.loadFor()
	if err != nil {
		return err
	}
	return fleet.WithUsers(ctx, config, makes, fn)
}

// newPassword is what the commands that set a password share.
type newPassword struct {
	sources  `embed:""`
	Password string `help:"File with the password, - for standard input; without it one is made and printed." placeholder:"FILE" type:"path"`
}

// with calls fn with the password and prints it when it was made here.
func (n *newPassword) with(ctx context.Context, makes bool, fn func(u *fleet.Users, password string) error) error {
	password, made, err := readPassword(n.Password)
	if err != nil {
		return err
	}
	return n.sources.with(ctx, makes, func(u *fleet.Users) error {
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
