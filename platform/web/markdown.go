package web

import (
	"bytes"
	"fmt"
	"slices"
	"strings"
)

// RoutesMarkdown prints routes for manual/routes.md: one table per area of the path, sorted.
func RoutesMarkdown(routes []Route) []byte {
	routes = slices.Clone(routes)
	sortRoutes(routes)
	areas := map[string][]Route{}
	var names []string
	for _, route := range routes {
		area := areaOf(route.Path())
		if areas[area] == nil {
			names = append(names, area)
		}
		areas[area] = append(areas[area], route)
	}
	slices.Sort(names)
	var out bytes.Buffer
	fmt.Fprintf(
		&out,
		"# Routes\n\nGenerated from the routes of all domains. Do not edit.\n\n%d routes. An empty cell is: any role, no key, no limit.\n",
		len(routes),
	)
	for _, area := range names {
		fmt.Fprintf(&out, "\n## %s\n\n| method | path | auth | role | key | limit |\n|---|---|---|---|---|---|\n", area)
		for _, route := range areas[area] {
			fmt.Fprintf(&out, "| %s | `%s` | %s | %s | %s | %s |\n", route.Method(), route.Path(), route.Auth, route.Role, route.Key, route.Limit)
		}
	}
	return out.Bytes()
}

// areaOf is /_matrix/client for an API and the first segment for pages.
func areaOf(path string) string {
	segments := strings.Split(strings.Trim(path, "/"), "/")
	if strings.HasPrefix(segments[0], "_") && len(segments) > 1 && !strings.HasPrefix(segments[1], "{") {
		return "/" + segments[0] + "/" + segments[1]
	}
	if strings.HasPrefix(segments[0], "{") {
		return "/"
	}
	return "/" + segments[0]
}
