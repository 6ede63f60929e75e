package ui

import (
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
)

func TestPageNamesItsFilesByHash(t *testing.T) {
	page := string(Page("status").Body)
	names := regexp.MustCompile(Base+`([^"]+)"`).FindAllStringSubmatch(page, -1)
	if len(names) < 3 {
		t.Fatalf("the page names %d files: %s", len(names), page)
	}
	for _, n := range names {
		f, ok := Asset(n[1])
		if !ok || !f.Fixed || f.Type == "" || !strings.Contains(n[1], strings.Trim(f.Tag, `"`)) {
			t.Errorf("%s: found %v, fixed %v, type %q, tag %s", n[1], ok, f.Fixed, f.Type, f.Tag)
		}
	}
}

func TestAssetOfAnotherBuild(t *testing.T) {
	own, _ := Asset("status.js")
	f, ok := Asset("status.0123456789abcdef.js")
	if !ok || f.Fixed || f.Tag != own.Tag {
		t.Errorf("found %v, fixed %v, tag %s; want this build's file, to be asked for again", ok, f.Fixed, f.Tag)
	}
	for _, name := range []string{"", "none.js", "status.html", "../ui.go", "dist", "status.x.js"} {
		if _, ok := Asset(name); ok {
			t.Errorf("%q is served", name)
		}
	}
}

// TestNothingInlineAndNoOtherHost holds what the policy says, so that a page never depends on a browser's
// leniency.
func TestNothingInlineAndNoOtherHost(t *testing.T) {
	page := string(Page("status").Body)
	for _, bad := range []string{"<style", " style=", " onload=", "http:", "https:", "//"} {
		if strings.Contains(strings.ReplaceAll(page, "<!doctype html>", ""), bad) {
			t.Errorf("the page has %q", bad)
		}
	}
	if n := strings.Count(page, "<script"); n != strings.Count(page, "<script src=") {
		t.Error("the page has an inline script")
	}
	css, _ := Asset("status.css")
	for _, bad := range []string{"@import", "url("} {
		if strings.Contains(string(css.Body), bad) {
			t.Errorf("the style sheet has %q", bad)
		}
	}
}

func TestBundleIsSmallAndKeepsNotices(t *testing.T) {
	js, _ := Asset("status.js")
	css, _ := Asset("status.css")
	if n := len(js.Body) + len(css.Body); n > 120<<10 {
		t.Errorf("script and style sheet have %d bytes, at most 120 KiB are wanted", n)
	}
	notices, ok := Asset("licences.txt")
	if !ok {
		t.Fatal("the notices of what is bundled are not served")
	}
	for _, want := range []string{"uPlot", "Leon Sorokin", "Preact", "Jason Miller", "Permission is hereby granted"} {
		if !strings.Contains(string(notices.Body), want) {
			t.Errorf("the notices lack %q", want)
		}
	}
	if !strings.Contains(string(js.Body), "licences.txt") {
		t.Error("the bundle does not say where its notices are")
	}
}

func TestLockFileNamesNoRegistry(t *testing.T) {
	lock, err := os.ReadFile(filepath.Join("package-lock.json"))
	if err != nil {
		t.Fatal(err)
	}
	if strings.Contains(string(lock), `"resolved"`) {
		t.Error("package-lock.json names a registry: ui/.npmrc has omit-lockfile-registry-resolved=true")
	}
}
