// matrix-nio of Debian 12 (0.20), which asks for the paths of the r0 specification and downloads without a token.
import { join } from "node:path";
import { twoPeople } from "./server.mjs";

// The python3 of the packages, which have nio, and no other one.
const command = () => ["/usr/bin/python3", join(import.meta.dirname, "nio_client.py")];
twoPeople("matrix-nio", command, { LYCEUM_MEDIA_ALLOW_UNAUTHENTICATED: "true" });
