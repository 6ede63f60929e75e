// mautrix-go with its pure Go encryption. The program is a module of its own.
import { execFile } from "node:child_process";
import { mkdtemp } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { promisify } from "node:util";
import { twoPeople } from "./server.mjs";

let built;
async function build() {
  const program = join(await mkdtemp(join(tmpdir(), "lyceum-mautrix-")), "client");
  await promisify(execFile)("go", ["build", "-tags", "goolm", "-o", program, "."], {
    cwd: join(import.meta.dirname, "mautrix"), env: { ...process.env, CGO_ENABLED: "0" },
  });
  return [program];
}

twoPeople("mautrix-go", () => (built ??= build()));
