package main

import (
	"fmt"
	"slices"

	"github.com/alecthomas/kong"
)

// completionScripts ask the program itself for words: `lyceum __complete WORD…`.
var completionScripts = map[string]string{
	"bash": `_lyceum() { COMPREPLY=($(compgen -W "$(lyceum __complete "${COMP_WORDS[@]:1:COMP_CWORD-1}")" -- "${COMP_WORDS[COMP_CWORD]}")); }
complete -o default -F _lyceum lyceum
`,
	"zsh": `#compdef lyceum
_lyceum() { compadd -- $(lyceum __complete "${words[@]:1:$((CURRENT-2))}"); }
compdef _lyceum lyceum
`,
	"fish": `complete -c lyceum -f -a '(lyceum __complete (commandline -opc)[2..-1])'
`,
}

type completionCommand struct {
	Shell string `arg:"" enum:"bash,zsh,fish" help:"bash, zsh or fish."`
}

func (c *completionCommand) Run() error {
	fmt.Print(completionScripts[c.Shell])
	return nil
}

// words are the commands and flags that may follow.
func words(node *kong.Node, before []string) []string {
	for _, word := range before {
		i := slices.IndexFunc(node.Children, func(n *kong.Node) bool { return n.Name == word })
		if i >= 0 {
			node = node.Children[i]
		}
	}
	var out []string
	for _, child := range node.Children {
		if !child.Hidden {
			out = append(out, child.Name)
		}
	}
	for _, flag := range node.Flags {
		out = append(out, "--"+flag.Name)
	}
	return out
}
