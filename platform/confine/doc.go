// Package confine takes rights from helper processes that work on what users gave: pictures, later LaTeX. Whoever takes
// such a process over can compute and answer wrongly, and nothing else.
//
// The parent starts a helper by a Starter, in namespaces of its own: nobody there, no network. The helper reads what it
// needs of its order and then calls Self, before it looks at anything that a user gave. From then on it has the limits of
// memory, time and files that Limits name, reaches no file but those under Limits.Paths (Landlock), and may use only the
// system calls of a program that computes, reads and writes (seccomp): no sockets, no programs, no other process.
//
// Invariants:
//   - Nothing that was taken comes back, for no thread of the process.
//   - What a system does not have is said, by Self and by Starter.Start, and the rest is taken all the same. The caller
//     decides whether it goes on.
//   - What is open when Self is called stays usable. So a helper's main function comes before all else of the program.
package confine
