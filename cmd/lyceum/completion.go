package main

import (
	"fmt"
	"slices"
	"strings"

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

// completion answers `lyceum completion SHELL` and what its scripts ask.
func completion(parser *kong.Kong, args []string) (handled bool) {
	switch args[0] {
	case "completion":
		if len(args) == 2 && completionScripts[args[1]] != "" {
			fmt.Print(completionScripts[args[1]])
		} else {
			fmt.Println("usage: lyceum completion bash|zsh|fish")
		}
		return true
	case "__complete":
		fmt.Println(strings.Join(words(parser.Model.Node, args[1:]), "\n"))
		return true
	}
	return false
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
