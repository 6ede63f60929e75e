package media

import (
	"bufio"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"runtime"
	"runtime/debug"
	"time"

	"lyceum/media/picture"
	"lyceum/platform/confine"
)

// WorkerMain is the whole life of a worker process: it reads a workerRequest and a picture, confines itself between
// the two, and writes a thumbnail. The program ends when it returns, with a status other than 0 when
// there is an error. Nothing else of the program may run before it: what is opened stays open.
func WorkerMain(stdin io.Reader, stdout io.Writer) error {
	in := bufio.NewReader(stdin)
	line, err := in.ReadBytes('\n')
	if err != nil {
		return fmt.Errorf("read the request: %w", err)
	}
	var request workerRequest
	if err := json.Unmarshal(line, &request); err != nil {
		return fmt.Errorf("read the request: %w", err)
	}
	runtime.GOMAXPROCS(1)
	debug.SetMemoryLimit(request.Memory / 4 * 3)
	timeout := time.Duration(request.TimeoutMs) * time.Millisecond
	missing := confine.Self(confine.Limits{Memory: request.Memory, CPU: timeout + time.Second, Time: timeout})

	data := make([]byte, request.Size)
	if _, err := io.ReadFull(in, data); err != nil {
		return fmt.Errorf("read the picture: %w", err)
	}
	a := workerResponse{MissingConfinement: missing}
	result, err := picture.Thumbnail(data, picture.Options{
		Width: request.Width, Height: request.Height, Crop: request.Crop, Animated: request.Animated,
		MaxPixels: request.MaxPixels, MaxMemory: request.Memory/4*3 - request.Size,
	})
	switch {
	case errors.Is(err, picture.ErrUnsupported):
		a.Failure, a.Why = failUnsupported, err.Error()
	case errors.Is(err, picture.ErrTooLarge):
		a.Failure, a.Why = failTooLarge, err.Error()
	case errors.Is(err, picture.ErrBroken):
		a.Failure, a.Why = failBroken, err.Error()
	case err != nil:
		return err
	default:
		a.Type, a.Original, a.data = result.Type, result.Data == nil, result.Data
	}
	head, err := json.Marshal(a)
	if err != nil {
		return err
	}
	if _, err := stdout.Write(append(head, '\n')); err != nil {
		return err
	}
	_, err = stdout.Write(a.data)
	return err
}
