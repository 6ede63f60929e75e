package fleet

import (
	"cmp"
	"reflect"
	"slices"
	"strings"
	"testing"

	"lyceum/platform/db"
	"lyceum/platform/db/dbtest"
	"lyceum/platform/lease"
	"lyceum/platform/stream"
)

// TestTablesBelongToOneDomain holds that no domain makes or changes a table of another: each schema is made without the
// others, but for the leases, and together they are the whole.
func TestTablesBelongToOneDomain(t *testing.T) {
	whole, leases := dbtest.Tables(t, Migrations()...), dbtest.Tables(t, lease.Migrations())
	owner := map[string]string{}
	for _, d := range Domains {
		if d.Migrations.Files == nil {
			if len(d.Blobs)+len(d.Restore) > 0 {
				t.Errorf("domain %s has no tables and says something of some", d.Name)
			}
			continue
		}
		if d.Migrations.Domain != d.Name {
			t.Errorf("domain %s has the migrations of %s", d.Name, d.Migrations.Domain)
		}
		tables := dbtest.Tables(t, lease.Migrations(), d.Migrations)
		if d.Name != own.Name {
			for name, table := range leases {
				if !reflect.DeepEqual(tables[name], table) {
					t.Errorf("domain %s changes the columns of %s, which is of package lease", d.Name, name)
				}
				delete(tables, name)
			}
		}
		for name, table := range tables {
			if owner[name] != "" {
				t.Errorf("the table %s is made by %s and by %s", name, owner[name], d.Name)
			}
			owner[name] = d.Name
			if !reflect.DeepEqual(table, whole[name]) {
				t.Errorf("the table %s of %s has other columns when all domains are there: only the domain may change it", name, d.Name)
			}
		}
		for _, r := range d.Restore {
			if _, ok := tables[r.Table]; !ok || r.Do == 0 || r.Rows == "" {
				t.Errorf("domain %s has the restore rule %+v: expected a table of its own, what its rows are, and what to do", d.Name, r)
			}
		}
		for _, b := range d.Blobs {
			if !slices.ContainsFunc(tables[b.Table].Columns, func(c db.Column) bool { return c.Name == b.Column && c.Kind == db.Text }) {
				t.Errorf("domain %s says that blobs are named by %s.%s, which is no text of its own", d.Name, b.Table, b.Column)
			}
		}
	}
	for name := range whole {
		if owner[name] == "" {
			t.Errorf("the table %s is of no domain", name)
		}
	}
}

// TestDomainsDoWhatTheyDeclare: the streams, consumers, roles and sections of a process are those that are declared, and
// all that they name is there.
func TestDomainsDoWhatTheyDeclare(t *testing.T) {
	d := wired(t)
	names := map[string]string{}
	unique := func(kind, name, by string) {
		if old := names[kind+" "+name]; old != "" || name == "" {
			t.Errorf("%s %q of domain %s: expected a name of its own, and %s has it too", kind, name, by, old)
		}
		names[kind+" "+name] = by
	}
	there := func(kind, name, where string) {
		if names[kind+" "+name] == "" {
			t.Errorf("%s names the %s %q, and no domain declares it", where, kind, name)
		}
	}
	specs, consumers := map[string]stream.Spec{}, map[string]stream.Consumer{}
	for _, x := range Domains {
		unique("domain", x.Name, x.Name)
		for _, s := range x.Streams {
			unique("stream", s.Name, x.Name)
			specs[s.Name] = s
		}
		for _, c := range x.Consumers {
			unique("consumer", c.Name, x.Name)
			consumers[c.Name] = c
		}
		for _, r := range x.Roles {
			unique("role", r.Name, x.Name)
		}
	}
	for _, st := range d.process.Streams.All() {
		if opened := st.Spec().With(nil, nil); !reflect.DeepEqual(opened, specs[st.Name()]) {
			t.Errorf("the stream %s is opened as %+v and declared as %+v", st.Name(), opened, specs[st.Name()])
		}
		there("role", st.Role(), "stream "+st.Name())
		delete(specs, st.Name())
	}
	for _, c := range d.process.Streams.Consumers() {
		want := consumers[c.Name]
		if c.Role != want.Role || c.Linger != want.Linger || c.Batch != cmp.Or(want.Batch, 100) {
			t.Errorf("the consumer %s is %+v and declared as %+v", c.Name, c, want)
		}
		there("role", c.Role, "consumer "+c.Name)
		there("stream", c.Stream.Name(), "consumer "+c.Name)
		delete(consumers, c.Name)
	}
	if len(specs)+len(consumers) > 0 {
		t.Errorf("declared and never opened: %v %v", specs, consumers)
	}
	for _, r := range Roles {
		if r.Stream != "" {
			there("stream", r.Stream, "role "+r.Name)
		}
		if r.Pool != "" {
			there("role", r.Pool, "role "+r.Name)
		}
	}
	for _, name := range readingOrder {
		there("role", name, "the order of roles")
	}
	for _, r := range d.routes {
		if r.Role != "" {
			there("role", r.Role, r.Pattern)
		}
	}
	sections := map[string]bool{}
	for _, s := range d.config.Sections() {
		if sections[s.Name] || s.Help == "" {
			t.Errorf("the section %q of the configuration: expected one, with a line of help", s.Name)
		}
		sections[s.Name] = true
	}
}

// TestADomainWithoutConstructorIsSeen holds that a domain can not be declared and then left out.
func TestADomainWithoutConstructorIsSeen(t *testing.T) {
	if _, err := wired(t).newPart("forgotten"); err == nil || !strings.Contains(err.Error(), "wire.go") {
		t.Errorf("found %v", err)
	}
}
