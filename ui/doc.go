// Package ui holds the pages that run in a browser, as files in the binary. They are written in TypeScript under
// src; `make ui` bundles them into dist, which is committed, so that a build of the binary needs no Node.
package ui
