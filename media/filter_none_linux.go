//go:build linux && !amd64 && !arm64

package media

import (
	"errors"
	"runtime"
)

func filterCalls() error { return errors.New("there is none for " + runtime.GOARCH) }
