package deploy

import (
	"encoding/json"
	"slices"
	"strings"
	"testing"
)

func TestPoliciesAllowNoMoreThanIsNeeded(t *testing.T) {
	for access, want := range map[Access]string{
		ReadOnly: "s3:GetObject s3:ListBucket",
		ReadWrite: "s3:AbortMultipartUpload s3:DeleteObject s3:GetObject s3:ListBucket s3:ListBucketMultipartUploads " +
			"s3:ListMultipartUploadParts s3:PutObject",
		MakeBucket: "s3:AbortMultipartUpload s3:CreateBucket s3:DeleteObject s3:GetObject s3:ListBucket s3:ListBucketMultipartUploads " +
			"s3:ListMultipartUploadParts s3:PutObject",
	} {
		f, err := S3Policy("files", "lyceum/", access)
		if err != nil {
			t.Fatal(err)
		}
		var p struct{ Statement []statement }
		if err := json.Unmarshal(f.Body, &p); err != nil {
			t.Fatal(err)
		}
		var actions []string
		for _, s := range p.Statement {
			actions = append(actions, s.Action...)
			for _, r := range s.Resource {
				objects := slices.Contains(s.Action, "s3:GetObject")
				if expected := map[bool]string{true: "arn:aws:s3:::files/lyceum/*", false: "arn:aws:s3:::files"}[objects]; r != expected {
					t.Errorf("%s: %v on %s, expected %s", access, s.Action, r, expected)
				}
			}
			if slices.Contains(s.Action, "s3:ListBucket") && s.Condition["StringLikeIfExists"]["s3:prefix"][0] != "lyceum/*" {
				t.Errorf("%s: other keys can be listed: %v", access, s.Condition)
			}
		}
		slices.Sort(actions)
		if got := strings.Join(actions, " "); got != want {
			t.Errorf("%s: expected %s, found %s", access, want, got)
		}
	}
	for _, wrong := range [][2]string{{"UPPER", ""}, {"x", ""}, {"files", "a*"}, {"files", "/a"}} {
		if _, err := S3Policy(wrong[0], wrong[1], ReadOnly); err == nil {
			t.Errorf("%v was taken", wrong)
		}
	}
	if _, err := S3Policy("files", "", "all"); err == nil {
		t.Error("the access all was taken")
	}
}
