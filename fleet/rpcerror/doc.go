// Package rpcerror carries errors between processes. A Matrix error keeps its code, status and message, and the errors of streams
// that a caller tells apart keep their identity: not the owner, aborted, busy.
package rpcerror
