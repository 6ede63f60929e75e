package up

import (
	"errors"
	"os"
	"strings"

	"lyceum/fleet"
	"lyceum/platform/conf"
)

// Keys that each process of lyceum up has for itself.
var (
	ErrRoles = errors.New("fleet.roles: lyceum up gives each process its roles: remove --roles, LYCEUM_FLEET_ROLES or the key, " +
		"and name the groups of roles and their numbers of processes in up.replicas")
	errMachine = errors.New("fleet.machine_id: lyceum up gives each process an id of its own: remove --machine-id, MACHINE_ID, " +
		"LYCEUM_FLEET_MACHINE_ID or the key")
)

// checkOwn refuses what no process would have, or all of them alike where that can not be.
func (u *Supervisor) checkOwn() error {
	if roles := u.Config.Fleet.Roles; len(roles) > 0 && roles[0] != fleet.AllRoles {
		return ErrRoles
	}
	if id, err := u.Config.Fleet.Machine(); err != nil || id >= 0 {
		return errors.Join(errMachine, err)
	}
	return nil
}

// environ is the environment of all processes, which come to the configuration of lyceum up with it. What each has for itself is in
// its command line.
func (u *Supervisor) environ() []string {
	flags := map[string]string{}
	for key, value := range u.Flags {
		switch key {
		case "server.data", "server.listen", "fleet.roles", "fleet.machine_id":
		default:
			if !strings.HasPrefix(key, "up.") {
				flags[key] = value
			}
		}
	}
	sections := (&fleet.Config{}).Sections()
	return conf.Over(conf.Over(os.Environ(), conf.Variables(flags, sections...), sections...), u.Environ, sections...)
}

func (u *Supervisor) env(name, value string) {
	if value != "" {
		u.Environ = append(u.Environ, name+"="+value)
	}
}
