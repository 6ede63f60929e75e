package bench

import (
	"bytes"
	"os"
	"os/exec"
	"path/filepath"
	"testing"

	"lyceum/ops/plan"
)

// TestCalibrateMeasuresAPrivateServer runs all loads shortly against a server that it builds: figures are
// rough, but every operation has a cost and the file can be read back.
func TestCalibrateMeasuresAPrivateServer(t *testing.T) {
	if testing.Short() {
		t.Skip("builds the program")
	}
	program := os.Getenv("LYCEUM_TEST_PROGRAM")
	if program == "" {
		program = filepath.Join(t.TempDir(), "lyceum")
		if out, err := exec.Command("go", "build", "-o", program, "lyceum/cmd/lyceum").CombinedOutput(); err != nil {
			t.Fatalf("%v: %s", err, out)
		}
	}
	for name, alone := range map[string]bool{"alone": true, "fleet": false} {
		t.Run(name, func(t *testing.T) {
			var log bytes.Buffer
			caps, err := Calibrate(t.Context(), CalibrateOptions{Program: program, Alone: alone, Quick: true}, &log)
			if err != nil {
				t.Fatalf("%v\n%s", err, log.String())
			}
			t.Log(log.String())
			for _, op := range []string{
				plan.OpMessage, plan.OpDelivery, plan.OpFirstSync, plan.OpRoom, plan.OpJoin, plan.OpRequest, plan.OpReceipt, plan.OpTyping,
				plan.OpPresence, plan.OpToDevice, plan.OpAccountData, plan.OpUpload, plan.OpDownload, plan.OpThumbnail,
			} {
				if o := caps.Operations[op]; len(o.CPU) == 0 || o.Count == 0 {
					t.Errorf("%s: no cost was measured: %+v", op, o)
				}
			}
			if caps.Operations[plan.OpMessage].DatabaseBytes == 0 {
				t.Error("a message takes no place in the database")
			}
			var b bytes.Buffer
			if err := caps.Write(&b); err != nil {
				t.Fatal(err)
			}
			if _, err := plan.ReadCapacities(&b); err != nil {
				t.Fatal(err)
			}
		})
	}
}
