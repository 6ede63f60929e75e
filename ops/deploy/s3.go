package deploy

import (
	"encoding/json"
	"errors"
	"fmt"
	"strings"
)

// Access is what a policy of an S3 store allows.
type Access string

// The kinds of Access.
const (
	ReadOnly   Access = "read"        // get and list: for backups, and roles that only serve files
	ReadWrite  Access = "write"       // what the processes of a fleet need
	MakeBucket Access = "make-bucket" // and make the bucket when it is missing: blob.s3.make_bucket
)

type statement struct {
	Sid       string
	Effect    string
	Action    []string
	Resource  []string
	Condition map[string]map[string][]string `json:",omitempty"`
}

// S3Policy gives the least rights on a bucket, and in it on the keys that begin with prefix, as a policy document
// (IAM JSON policy language, version 2012-10-17; MinIO, Ceph and others read it too).
func S3Policy(bucket, prefix string, access Access) (File, error) {
	if !bucketName.MatchString(bucket) {
		return File{}, fmt.Errorf("bucket: expected 3 to 63 lower-case letters, digits, dots and dashes, found %q", bucket)
	}
	if strings.ContainsAny(prefix, "*?$\" \n") || strings.HasPrefix(prefix, "/") {
		return File{}, fmt.Errorf("prefix: expected a plain path such as lyceum/, found %q", prefix)
	}
	name := "arn:aws:s3:::" + bucket
	list := statement{Sid: "List", Effect: "Allow", Action: []string{"s3:ListBucket"}, Resource: []string{name}}
	if prefix != "" {
		// IfExists, since a start asks whether the bucket is there (HeadBucket), which has no prefix and needs this right.
		list.Condition = map[string]map[string][]string{"StringLikeIfExists": {"s3:prefix": {prefix + "*"}}}
	}
	objects := statement{Sid: "Objects", Effect: "Allow", Action: []string{"s3:GetObject"}, Resource: []string{name + "/" + prefix + "*"}}
	statements := []statement{list, objects}
	switch access {
	case ReadOnly:
	case ReadWrite, MakeBucket:
		statements[1].Action = append(statements[1].Action, "s3:PutObject", "s3:DeleteObject", "s3:AbortMultipartUpload",
			"s3:ListMultipartUploadParts")
		statements = append(statements, statement{
			Sid: "Uploads", Effect: "Allow", Action: []string{"s3:ListBucketMultipartUploads"},
			Resource: []string{name},
		})
		if access == MakeBucket {
			statements = append(statements, statement{Sid: "Make", Effect: "Allow", Action: []string{"s3:CreateBucket"}, Resource: []string{name}})
		}
	default:
		return File{}, errors.New("access: expected read, write or make-bucket")
	}
	body, err := json.MarshalIndent(struct {
		Version   string
		Statement []statement
	}{"2012-10-17", statements}, "", "  ")
	return File{Name: fmt.Sprintf("%s-%s.json", bucket, access), Mode: 0o644, Body: append(body, '\n')}, err
}
