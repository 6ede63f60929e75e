// Package roletest gives tests a running Process on every engine, alone or as a part of a fleet.
package roletest
