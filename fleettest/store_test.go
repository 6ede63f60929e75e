package fleettest_test

import (
	"crypto/rand"
	"crypto/sha256"
	"errors"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"lyceum/fleettest"
)

// stored is a file whose upload was acknowledged.
type stored struct {
	uri string
	sum [sha256.Size]byte
}

// uploads sends files of many sizes, several at a time, each again until it is taken, and returns those that were.
func uploads(t *testing.T, u *fleettest.User, base string, n int) (taken []stored, refused int) {
	t.Helper()
	var mu sync.Mutex
	var wg sync.WaitGroup
	jobs := make(chan int)
	for range 4 {
		wg.Go(func() {
			for i := range jobs {
				data := make([]byte, []int{1, 3_000, 70_000, 400_000, 6 << 20}[i%5]) // the last in several parts
				_, _ = rand.Read(data)
				for try := 0; ; try++ {
					uri, status, answer, err := upload(u, base, data)
					mu.Lock()
					if err == nil && status == http.StatusOK {
						taken = append(taken, stored{uri, sha256.Sum256(data)})
						mu.Unlock()
						break
					}
					refused++
					mu.Unlock()
					if err == nil && (status < 500 || !strings.Contains(answer, `"errcode"`)) || try > 20 {
						t.Errorf("upload %d: status %d: %s: %v", i, status, answer, err)
						break
					}
				}
			}
		})
	}
	for i := range n {
		jobs <- i
	}
	close(jobs)
	wg.Wait()
	return taken, refused
}

// TestS3MayFail lets every tenth request to S3 fail: refused, cut off before or after it was done, or slow.
func TestS3MayFail(t *testing.T) {
	c := fleettest.Small(t)
	u := c.Register(t, "files")
	base := c.URL()
	c.Store.FailEvery(10)
	t.Cleanup(func() { c.Store.FailEvery(0) })
	failedBefore, allBefore := c.Store.Failed()
	began := time.Now()
	taken, refused := uploads(t, u, base, 60)
	took := time.Since(began)
	broken := 0
	for _, f := range taken {
		address := base + "/_matrix/client/v1/media/download/" + strings.TrimPrefix(f.uri, "mxc://")
		status, out, err := mediaRequest(u, "GET", address, nil)
		if err == nil && status == http.StatusOK && sha256.Sum256(out) != f.sum {
			t.Errorf("%s came damaged with status 200", f.uri)
		}
		if err != nil || status != http.StatusOK {
			broken++
			if err := insistDownload(u, base, f.uri, f.sum); err != nil {
				t.Error(err)
			}
		}
	}
	failed, all := c.Store.Failed()
	t.Logf(
		"S3 failing every tenth request: %d of %d requests failed, %d uploads taken in %.1f s, %d refused with an error and sent again, %d of "+
			"%d downloads broken off and repeated",
		failed-failedBefore,
		all-allBefore,
		len(taken),
		took.Seconds(),
		refused,
		broken,
		len(taken),
	)
	c.Store.FailEvery(0)
	for _, f := range taken {
		if err := insistDownload(u, base, f.uri, f.sum); err != nil {
			t.Error(err)
		}
	}
}

// TestAFullDiskRefusesUploadsOnly fills the disk on which a process keeps its scratch.
func TestAFullDiskRefusesUploadsOnly(t *testing.T) {
	if os.Geteuid() != 0 {
		t.Skip("only root mounts a small disk")
	}
	c := fleettest.Small(t)
	disk := t.TempDir()
	if err := syscall.Mount("tmpfs", disk, "tmpfs", 0, "size=8m"); err != nil {
		t.Skipf("this machine mounts no small disk: %v", err)
	}
	t.Cleanup(func() { _ = syscall.Unmount(disk, 0) })
	m := c.Join(t, "client+media+sync+events+"+fleettest.Combined, nil, disk)
	t.Cleanup(func() { m.Leave(t) })
	p := newProbe(t, c.Fleet, m.URL, "127.0.0.1")
	all := append([]string{"client", "sync"}, stateful...)
	p.within(10*time.Second, "with room", append(all, "media")...)
	kept, _ := uploads(t, p.users[0], m.URL, 4)

	plug := filepath.Join(disk, "plug")
	fill(t, plug)
	data := make([]byte, 100_000)
	_, _ = rand.Read(data)
	uri, status, answer, err := upload(p.users[0], m.URL, data)
	if err != nil || status != http.StatusInsufficientStorage || !strings.Contains(answer, `"errcode":"M_UNKNOWN"`) {
		t.Errorf("an upload with a full disk: %q, status %d: %s: %v", uri, status, answer, err)
	}
	full := p.within(10*time.Second, "with a full disk", all...)
	for _, f := range kept {
		if err := insistDownload(p.users[0], m.URL, f.uri, f.sum); err != nil {
			t.Error(err)
		}
	}
	if err := os.Remove(plug); err != nil {
		t.Fatal(err)
	}
	began := time.Now()
	if _, err := insistUpload(p.users[0], m.URL, data); err != nil {
		t.Error(err)
	}
	t.Logf("disk full: uploads are refused with status %d %s; requests of all other roles took %d ms; uploads work %d ms after there was room",
		status, strings.TrimSpace(answer), full.Milliseconds(), time.Since(began).Milliseconds())
	p.within(10*time.Second, "with room again", append(all, "media")...)
}

// fill writes a file until the disk has no room.
func fill(t *testing.T, path string) {
	t.Helper()
	f, err := os.Create(path)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	block := make([]byte, 4096)
	for {
		if _, err := f.Write(block); errors.Is(err, syscall.ENOSPC) {
			return
		} else if err != nil {
			t.Fatal(err)
		}
	}
}
