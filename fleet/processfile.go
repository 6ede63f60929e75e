package fleet

import (
	"encoding/json"
	"os"
	"path/filepath"
	"time"

	"lyceum/platform/disk"
	"lyceum/platform/obs"
)

// ProcessFile is what a serving process leaves in its data directory for lyceum up and for people.
type ProcessFile struct {
	PID     int       `json:"pid"`
	Machine int       `json:"machine"`
	Version string    `json:"version"`
	Listen  string    `json:"listen,omitempty"`
	Since   time.Time `json:"since"` // when it began to serve
}

func processFilePath(data string) string { return filepath.Join(data, "process.json") }

// writeProcessFile tells that this process serves.
func (p *Process) writeProcessFile() {
	f := ProcessFile{PID: os.Getpid(), Machine: p.process.Machine(), Version: obs.Version, Since: obs.Now()}
	if p.public != nil {
		f.Listen = p.public.Addr().String()
	}
	text, err := json.Marshal(f)
	if err == nil {
		err = disk.WriteFile(processFilePath(p.config.Server.Data), append(text, '\n'), 0o600)
	}
	if err != nil {
		p.process.Log.Warn("the file that tells of this process can not be written", "error", err)
	}
}

// ReadProcessFile reads the file in a data directory. ok is false when it is not of the process pid, which does not serve yet.
func ReadProcessFile(data string, pid int) (f ProcessFile, ok bool) {
	text, err := os.ReadFile(processFilePath(data))
	if err != nil || json.Unmarshal(text, &f) != nil {
		return ProcessFile{}, false
	}
	return f, f.PID == pid
}
