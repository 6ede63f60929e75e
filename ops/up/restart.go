package up

import (
	"cmp"
	"context"
	"fmt"
	"time"
)

// Restart replaces the process of a child by one of program ("" is the one it has): the new one serves before the old one
// is told to stop, so that nobody notices. When the new one does not come up, the old one stays. A child that is stopped
// or restarted already is left alone.
func (u *Supervisor) Restart(ctx context.Context, c *Child, program string) error {
	address, err := c.freshAddress() // the old process still listens at its own
	if err != nil {
		return err
	}
	next, err := c.startNext(program, address)
	if err != nil {
		return err
	}
	for deadline := time.Now().Add(startTime); ; time.Sleep(stepTime) {
		old, err := c.replace(next)
		if err != nil { // it is stopped, and next with it
			return err
		}
		if old != nil {
			old.end(ctx)
			c.mu.Lock()
			c.old = nil
			c.mu.Unlock()
			if err := u.writeAccess(next); err != nil {
				report("%v", err)
			}
			return nil
		}
		if next.hasEnded() || time.Now().After(deadline) || ctx.Err() != nil {
			how := fmt.Sprintf("not after %s", startTime)
			if next.hasEnded() {
				how = howEnded(next.exitErr)
			}
			next.end(ctx)
			c.mu.Lock()
			c.next = nil
			gone, stays := c.gone, c.run.file.Machine
			c.mu.Unlock()
			if gone {
				return c.stopped()
			}
			return fmt.Errorf("the new process of %s does not serve (%s), so the old one stays; its log ends with:\n%s", c.Name, how,
				c.logSince(next.logFrom, stays))
		}
	}
}

// startNext starts the process that is to replace the one of the child.
func (c *Child) startNext(program, address string) (next *run, err error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.gone {
		return nil, c.stopped()
	}
	if c.next != nil || c.old != nil {
		return nil, fmt.Errorf("%s is being restarted already: try again when that has ended", c.Name)
	}
	c.serving(c.run) // remembered, as next writes the same file
	if next, err = c.spawn(cmp.Or(program, c.program), address); err == nil {
		c.next = next
	}
	return next, err
}

// replace puts next into its place if it serves, and returns the process that had it, which the caller ends; nil while
// next does not serve.
func (c *Child) replace(next *run) (old *run, err error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.gone { // stop ends next
		return nil, c.stopped()
	}
	if !c.serving(next) {
		c.serving(c.run)
		return nil, nil
	}
	c.old, c.run, c.next = c.run, next, nil
	c.program, c.address = next.program, next.address
	close(c.old.replaced)
	return c.old, nil
}
