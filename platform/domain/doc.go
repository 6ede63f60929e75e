// Package domain says what a domain is: the one declaration that each package of the product makes of itself, in its
// domain.go. Package fleet has the list of them and takes everything from there, so that nothing of a domain can be
// forgotten: its tables, its streams, its roles, its configuration, and what backups must know of it.
package domain
