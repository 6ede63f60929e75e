package reports

import "lyceum/platform/domain"

// Domain is the declaration of the package. The migrations of its table are among those of package rooms, where it was before.
var Domain = domain.Domain{Name: "reports"}
