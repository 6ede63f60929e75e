package fleettest

import (
	"errors"
	"fmt"
	"io"
	"net"
	"net/url"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
)

// networks are what a host is connected to, each by itself, so that a test can cut one of them.
var networks = []string{"db", "redis", "peers", "front"}

// Network is a few hosts on this machine: network namespaces, joined by one bridge for each of the networks.
// The machine itself is on all but "peers".
type Network struct {
	Hosts []*Host

	prefix string // of the names of namespaces
	octet  int    // second of all addresses, different for each run on a machine
	mu     sync.Mutex
	open   []net.Listener
}

// Host is a network namespace.
type Host struct {
	Name string

	network *Network
	number  int // last octet of its addresses
}

// CanNetwork tells why no Network can be made here, nil when one can.
func CanNetwork() error {
	if os.Geteuid() != 0 {
		return errors.New("only root makes network namespaces")
	}
	if _, err := exec.LookPath("ip"); err != nil {
		return errors.New("the program ip is missing: install iproute2")
	}
	probe := fmt.Sprintf("lyceum-%d-probe", os.Getpid())
	if out, err := exec.Command("ip", "netns", "add", probe).CombinedOutput(); err != nil {
		return fmt.Errorf("this machine makes no network namespaces: %s", strings.TrimSpace(string(out)))
	}
	defer func() { _ = exec.Command("ip", "netns", "del", probe).Run() }()
	if out, err := exec.Command("ip", "-n", probe, "link", "add", "name", "bridge0", "type", "bridge").CombinedOutput(); err != nil {
		return fmt.Errorf("this machine makes no bridges: %s", strings.TrimSpace(string(out)))
	}
	return nil
}

// NewNetwork makes two hosts. What an earlier run left behind when it was killed is removed.
func NewNetwork() (*Network, error) {
	removeStale()
	pid := os.Getpid()
	n := &Network{prefix: fmt.Sprintf("lyceum-%d-", pid), octet: 100 + pid%100}
	n.Hosts = []*Host{{Name: n.prefix + "a", network: n, number: 11}, {Name: n.prefix + "b", network: n, number: 12}}
	if err := n.build(); err != nil {
		return nil, errors.Join(err, n.Close())
	}
	return n, nil
}

func removeStale() {
	names, _ := filepath.Glob("/run/netns/lyceum-*")
	for _, name := range names {
		parts := strings.Split(filepath.Base(name), "-")
		if pid, err := strconv.Atoi(parts[1]); err == nil {
			if _, err := os.Stat(fmt.Sprintf("/proc/%d", pid)); os.IsNotExist(err) {
				_ = ip("netns", "del", filepath.Base(name))
			}
		}
	}
}

func ip(args ...string) error {
	if out, err := exec.Command("ip", args...).CombinedOutput(); err != nil {
		return fmt.Errorf("ip %s: %w: %s", strings.Join(args, " "), err, out)
	}
	return nil
}

func (n *Network) build() error {
	var errs []error
	do := func(args ...string) { errs = append(errs, ip(args...)) }
	hub := n.prefix + "hub"
	do("netns", "add", hub)
	for _, h := range n.Hosts {
		do("netns", "add", h.Name)
		do("-n", h.Name, "link", "set", "lo", "up")
	}
	for i, name := range networks {
		do("-n", hub, "link", "add", "name", name, "type", "bridge", "forward_delay", "0")
		do("-n", hub, "link", "set", name, "up")
		places := map[int]string{} // by last octet: the namespace, "" for the machine
		if name != "peers" {
			places[1] = ""
		}
		for _, h := range n.Hosts {
			places[h.number] = h.Name
		}
		for number, place := range places {
			in := []string{}
			if place != "" {
				in = []string{"-n", place}
			}
			here := func(args ...string) { do(append(in[:len(in):len(in)], args...)...) }
			device := n.device(i, number)
			do("-n", hub, "link", "add", "name", n.port(name, number), "type", "veth", "peer", "name", device)
			if place != "" {
				do("-n", hub, "link", "set", device, "netns", place)
			} else {
				do("-n", hub, "link", "set", device, "netns", strconv.Itoa(os.Getpid()))
			}
			do("-n", hub, "link", "set", n.port(name, number), "master", name, "up")
			here("link", "set", device, "address", mac(i, number), "up")
			here("address", "add", fmt.Sprintf("%s/24", n.address(i, number)), "dev", device)
			for other := range places { // known for ever, so that a cut is silence and not an error
				if other != number {
					here("neigh", "replace", n.address(i, other), "lladdr", mac(i, other), "dev", device, "nud", "permanent")
				}
			}
		}
	}
	return errors.Join(errs...)
}

func (n *Network) device(network, number int) string {
	return fmt.Sprintf("ly%d-%d-%d", n.octet, network, number)
}

func (n *Network) port(network string, number int) string {
	return fmt.Sprintf("%s-%d", network, number)
}

func (n *Network) address(network, number int) string {
	return fmt.Sprintf("10.%d.%d.%d", n.octet, network, number)
}

func mac(network, number int) string { return fmt.Sprintf("02:4c:59:00:%02x:%02x", network, number) }

func numberOf(network string) int {
	for i, name := range networks {
		if name == network {
			return i
		}
	}
	panic("no network has the name " + network)
}

// Address is the machine's own address on a network.
func (n *Network) Address(network string) string { return n.address(numberOf(network), 1) }

// Address is the host's address on a network.
func (h *Host) Address(network string) string { return h.network.address(numberOf(network), h.number) }

// command runs what follows it on the host.
func (h *Host) command() []string { return []string{"ip", "netns", "exec", h.Name} }

// Cut takes a host from networks, in silence: what is sent gets lost, connections stay.
func (h *Host) Cut(names ...string) error { return h.wire(names, "nomaster") }

// Heal connects a host again.
func (h *Host) Heal(names ...string) error { return h.wire(names, "") }

func (h *Host) wire(names []string, what string) error {
	var errs []error
	for _, name := range names {
		args := []string{"-n", h.network.prefix + "hub", "link", "set", h.network.port(name, h.number)}
		if what == "" {
			args = append(args, "master", name)
		} else {
			args = append(args, what)
		}
		errs = append(errs, ip(args...))
	}
	return errors.Join(errs...)
}

// Offer makes the server of a URL on loopback reachable on a network, and returns the URL there.
func (n *Network) Offer(network, target string) (string, error) {
	u, err := url.Parse(target)
	if err != nil {
		return "", err
	}
	l, err := net.Listen("tcp", n.Address(network)+":0")
	if err != nil {
		return "", err
	}
	n.mu.Lock()
	n.open = append(n.open, l)
	n.mu.Unlock()
	server := u.Host
	go func() {
		for {
			conn, err := l.Accept()
			if err != nil {
				return // closed
			}
			go forward(conn, server)
		}
	}()
	u.Host = l.Addr().String()
	return u.String(), nil
}

// forward copies both ways until either side ends.
func forward(conn net.Conn, server string) {
	defer conn.Close()
	other, err := net.Dial("tcp", server)
	if err != nil {
		return
	}
	defer other.Close()
	go func() {
		_, _ = io.Copy(other, conn) // the end of either is the end of both
		_ = other.Close()
	}()
	_, _ = io.Copy(conn, other)
}

// Close removes the hosts and all that connected them.
func (n *Network) Close() error {
	n.mu.Lock()
	for _, l := range n.open {
		_ = l.Close()
	}
	n.mu.Unlock()
	errs := []error{ip("netns", "del", n.prefix+"hub")}
	for _, h := range n.Hosts {
		errs = append(errs, ip("netns", "del", h.Name))
	}
	return errors.Join(errs...)
}
