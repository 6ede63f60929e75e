//go:build !linux

package status

// FileSystem is not told here.
func FileSystem(string) (kind string, free int64) { return "", 0 }
