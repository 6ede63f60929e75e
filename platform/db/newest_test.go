package db_test

import (
	"fmt"
	"testing"

	"lyceum/platform/db"
)

func TestNewestKeepsTheLastRowOfEachKeyInThePlaceOfTheFirst(t *testing.T) {
	var n db.Newest[string]
	if rows := n.Rows(); len(rows) != 0 {
		t.Errorf("rows of an empty batch: %v", rows)
	}
	n.Put("b", "b", 1)
	n.Put("a", "a", 2)
	n.Put("b", "b", 3)
	n.Put("c", "c", 4)
	if got := fmt.Sprint(n.Rows()); got != "[[b 3] [a 2] [c 4]]" {
		t.Errorf("rows: %s", got)
	}
}
