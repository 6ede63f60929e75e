//go:build !linux

package confine

func touchOthers(int) map[string]error { return nil }

func signalSelf() error { return nil }
