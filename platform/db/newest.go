package db

// Newest collects the rows of a Bulk that replaces rows: one statement can not write a row of the table twice, so only the last row of each
// key is kept. The zero value is empty.
type Newest[K comparable] struct {
	at   map[K]int
	rows [][]any
}

// Put takes the row of a key in the place of an earlier one.
func (n *Newest[K]) Put(key K, row ...any) {
	if i, ok := n.at[key]; ok {
		n.rows[i] = row
		return
	}
	if n.at == nil {
		n.at = map[K]int{}
	}
	n.at[key] = len(n.rows)
	n.rows = append(n.rows, row)
}

// Rows gives the rows in the order in which their keys came first.
func (n *Newest[K]) Rows() [][]any { return n.rows }
