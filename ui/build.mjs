// Bundles src into dist. With --check it writes nothing and fails when dist is not what src makes.
import { build } from "esbuild";
import { mkdir, readdir, readFile, rm, writeFile } from "node:fs/promises";
import { join } from "node:path";

const here = import.meta.dirname;
const dist = join(here, "dist");

// licences are the notices of what is bundled; their texts come with the packages.
const bundled = [["uPlot", "uplot"], ["Preact", "preact"]];
const licences = async () => {
  const parts = ["The pages of Lyceum are licensed under the Apache License 2.0. Their scripts contain the following.\n"];
  for (const [title, name] of bundled) {
    const { version } = JSON.parse(await readFile(join(here, "node_modules", name, "package.json"), "utf8"));
    parts.push(`${title} ${version}\n\n${(await readFile(join(here, "node_modules", name, "LICENSE"), "utf8")).replace(/\r/g, "").trim()}\n`);
  }
  return parts.join("\n----\n\n");
};

const result = await build({
  entryPoints: [join(here, "src/status.tsx"), join(here, "src/status.css")],
  absWorkingDir: here, outdir: dist, write: false, bundle: true, minify: true, format: "iife", target: ["es2022", "chrome116", "firefox124", "safari17.4"],
  jsx: "automatic", jsxImportSource: "preact", legalComments: "none", charset: "utf8", logLevel: "warning",
  banner: { js: "/*! Notices of what is bundled: /_lyceum/ui/licences.txt */" },
});
const files = new Map(result.outputFiles.map((f) => [f.path.slice(dist.length + 1), f.text]));
files.set("licences.txt", await licences());
for (const name of ["status.html", "icon.svg"]) files.set(name, await readFile(join(here, "src", name), "utf8"));

if (process.argv.includes("--check")) {
  const have = await readdir(dist);
  const wrong = have.filter((name) => !files.has(name));
  for (const [name, text] of files) {
    if (!have.includes(name) || (await readFile(join(dist, name), "utf8")) !== text) wrong.push(name);
  }
  if (wrong.length > 0) {
    console.error(`ui/dist is not what ui/src makes: ${wrong.join(", ")}: type make ui`);
    process.exit(1);
  }
} else {
  await rm(dist, { recursive: true, force: true });
  await mkdir(dist, { recursive: true });
  for (const [name, text] of files) await writeFile(join(dist, name), text);
  for (const [name, text] of files) console.log(`${String(text.length).padStart(8)}  ${name}`);
}
