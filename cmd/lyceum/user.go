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
	sources  `embed:""`
	Name     string `arg:"" help:"Name, the part of the user id before the colon."`
	Admin    bool   `help:"Make the user an administrator of the server."`
	Password string `help:"File with the password, - for standard input; without it one is made and printed." placeholder:"FILE" type:"path"`
}

func (c *userAddCommand) Run(ctx context.Context) error {
	password, made, err := readPassword(c.Password)
	if err != nil {
		return err
	}
	return c.with(ctx, func(u *fleet.Users) error {
		id, err := u.Add(ctx, c.Name, password, c.Admin)
		if err != nil {
			return err
		}
		fmt.Println("made", id)
		if made {
			fmt.Println("password:", password)
		}
		return nil
	})
}

type userPasswdCommand struct {
	sources  `embed:""`
	Name     string `arg:"" help:"Name or user id."`
	Password string `help:"File with the password, - for standard input; without it one is made and printed." placeholder:"FILE" type:"path"`
}

func (c *userPasswdCommand) Run(ctx context.Context) error {
	password, made, err := readPassword(c.Password)
	if err != nil {
		return err
	}
	return c.with(ctx, func(u *fleet.Users) error {
		if err := u.SetPassword(ctx, c.Name, password); err != nil {
			return err
		}
		if made {
			fmt.Println("password:", password)
		}
		return nil
	})
}

type userTokenCommand struct {
	sources `embed:""`
	Name    string `arg:"" help:"Name or user id."`
}

func (c *userTokenCommand) Run(ctx context.Context) error {
	return c.with(ctx, func(u *fleet.Users) error {
		token, err := u.Token(ctx, c.Name)
		if err != nil {
			return err
		}
		fmt.Println(token)
		return nil
	})
}

func (s *sources) with(ctx context.Context, fn func(*fleet.Users) error) error {
	config, err := s.load()
	if err != nil {
		return err
	}
	return fleet.WithUsers(ctx, config, fn)
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
