// Package confine takes rights from helper processes that work on data of users, such as pictures. An attacker who takes over such a
// process can compute and answer wrongly, and nothing else.
//
// The parent starts a helper by a [Starter], in namespaces of its own: as an unprivileged user and without a network. The helper reads its
// order and then calls [Self], before it looks at any data of a user. From then on it has the limits of memory, time and files that Limits
// name, reaches no file but those under Limits.Paths (Landlock), and may use only the system calls of a program that computes, reads and
// writes (seccomp): no sockets, no programs, no other process.
//
// Invariants:
//   - Nothing that was taken comes back, for no thread of the process.
//   - What a system does not have is said, by Self and by Starter.Start, and the rest is taken all the same. The caller
//     decides whether it goes on.
//   - What is open when Self is called stays usable. So a helper's main function comes before all else of the program.
package confine
