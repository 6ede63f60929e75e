// Starts Lyceum as its users would, in one process or split over many, and stops it again.
import assert from "node:assert/strict";
import { execFile, spawn } from "node:child_process";
import { webcrypto } from "node:crypto";
import { mkdtemp, rm, mkdir, writeFile } from "node:fs/promises";
import { createServer } from "node:net";
import { tmpdir } from "node:os";
import { join, resolve } from "node:path";
import { existsSync } from "node:fs";
import { test } from "node:test";
import { promisify } from "node:util";

const root = resolve(import.meta.dirname, "..");
const lyceum = join(root, "lyceum");

export async function freePort() {
  const server = createServer();
  await new Promise((done) => server.listen(0, "127.0.0.1", done));
  const { port } = server.address();
  await new Promise((done) => server.close(done));
  return port;
}

export async function until(what, condition, seconds = 30) {
  const deadline = Date.now() + seconds * 1000;
  let last;
  for (;;) {
    try {
      const value = await condition();
      if (value) return value;
    } catch (error) {
      last = error;
    }
    if (Date.now() > deadline) throw new Error(`waited ${seconds} s in vain: ${what}${last ? ` (${last.message})` : ""}`);
    await new Promise((done) => setTimeout(done, 30));
  }
}

function start(program, args, options) {
  const child = spawn(program, args, { stdio: ["ignore", "pipe", "pipe"], ...options });
  child.log = "";
  for (const stream of [child.stdout, child.stderr]) stream.on("data", (text) => (child.log = (child.log + text).slice(-20000)));
  child.ended = new Promise((done) => child.on("exit", done));
  return child;
}

async function startS3(dir) {
  const program = [join(root, ".tools/bin/versitygw"), join(process.env.HOME ?? "", "go/bin/versitygw")].find(existsSync);
  if (!program) throw new Error("versitygw is missing: make tools");
  const port = await freePort();
  await mkdir(join(dir, "s3"));
  const child = start(program, ["--port", `127.0.0.1:${port}`, "posix", join(dir, "s3")], {
    env: { ...process.env, ROOT_ACCESS_KEY: "e2e", ROOT_SECRET_KEY: "e2e-secret-key" },
  });
  await until("the S3 server", async () => (await fetch(`http://127.0.0.1:${port}/`)).status > 0);
  return {
    child,
    env: {
      LYCEUM_BLOB_S3_ENDPOINT: `http://127.0.0.1:${port}`, LYCEUM_BLOB_S3_BUCKET: "lyceum", LYCEUM_BLOB_S3_MAKE_BUCKET: "true",
      LYCEUM_BLOB_S3_ACCESS_KEY: "e2e", LYCEUM_BLOB_S3_SECRET_KEY: "e2e-secret-key",
    },
  };
}

// shapes are the ways in which the same product runs.
export const shapes = {
  "one process": async (dir, port) => ({ args: ["serve"], env: {}, others: [] }),
  "a split fleet": async (dir) => {
    const s3 = await startS3(dir);
    return { args: ["up", "--each"], env: s3.env, others: [s3.child] };
  },
};

// startLyceum takes the name of a shape, or one of its own, and variables of the environment. It returns the base URL, every
// address that takes requests, and stop.
export async function startLyceum(shape, settings = {}) {
  // The fleet's PostgreSQL may run as another user, who must be able to enter.
  const dir = await mkdtemp(join(tmpdir(), "lyceum-e2e-"));
  spawn("chmod", ["755", dir]);
  const port = await freePort();
  const { args, env, others } = await (shapes[shape] ?? shape)(dir, port);
  const child = start(lyceum, [...args, "--data", join(dir, "data"), "--listen", `127.0.0.1:${port}`, "--server-name", "e2e.test"], {
    env: {
      ...process.env, ...env, LYCEUM_ACCOUNTS_REGISTRATION: "open", LYCEUM_HTTP_RATE_LIMITS_OFF: "true",
      LYCEUM_ACCOUNTS_PASSWORD_MEMORY_KIB: "64", LYCEUM_ACCOUNTS_PASSWORD_PASSES: "1", ...settings,
    },
  });
  const base = `http://127.0.0.1:${port}`;
  try {
    await until("Lyceum serves", async () => {
      if (child.exitCode !== null) throw new Error(child.log);
      return args[0] === "up" ? /^serving /m.test(child.log) : (await fetch(`${base}/health`)).ok;
    }, 90);
  } catch (error) {
    child.kill("SIGKILL");
    throw new Error(`${error.message}\n${child.log}`);
  }
  const processes = [...child.log.matchAll(/^(\S+)\s+(\d+)\s+(?:\S.*\s)?(127\.0\.0\.1:\d+)\b/gm)].filter(([, name]) => name !== "postgres" && name !== "redis").map(([, name, pid, address]) => ({ name, pid: Number(pid), base: `http://${address}` }));
  return {
    base, processes, log: () => child.log, dir, pid: child.pid,
    async stop() {
      child.kill("SIGTERM");
      await child.ended;
      for (const other of others) {
        other.kill("SIGTERM");
        await other.ended;
      }
      await rm(dir, { recursive: true, force: true });
    },
  };
}

// addUser makes a user as an operator would, and returns the password.
export async function addUser(server, shape, name, ...flags) {
  const data = join(server.dir, "data");
  const file = join(server.dir, `${name}.password`);
  await writeFile(file, `${name}-password`, { mode: 0o600 });
  const where = shape === "one process" ? ["--data", data] : ["--config", join(data, "fleet.yaml")];
  const child = start(lyceum, ["user", "add", name, "--password", file, ...flags, ...where], {
    env: { ...process.env, LYCEUM_ACCOUNTS_PASSWORD_MEMORY_KIB: "64", LYCEUM_ACCOUNTS_PASSWORD_PASSES: "1" },
  });
  if ((await child.ended) !== 0) throw new Error(child.log);
  return `${name}-password`;
}

export async function call(base, method, path, body, token) {
  const response = await fetch(base + path, {
    method, headers: { "Content-Type": "application/json", ...(token ? { Authorization: `Bearer ${token}` } : {}) },
    body: body === undefined ? undefined : JSON.stringify(body),
  });
  const answer = await response.json();
  if (!response.ok) throw Object.assign(new Error(`${method} ${path}: ${response.status} ${JSON.stringify(answer)}`), { status: response.status, answer });
  return answer;
}

export function register(base, name) {
  return call(base, "POST", "/_matrix/client/v3/register", { username: name, password: `${name}-password`, auth: { type: "m.login.dummy" } });
}

// encryptFile encrypts as clients do before they upload (Client-Server API, "Sending encrypted attachments").
export async function encryptFile(plain) {
  const key = await webcrypto.subtle.generateKey({ name: "AES-CTR", length: 256 }, true, ["encrypt", "decrypt"]);
  const iv = new Uint8Array(16);
  webcrypto.getRandomValues(iv.subarray(0, 8));
  const cipher = Buffer.from(await webcrypto.subtle.encrypt({ name: "AES-CTR", counter: iv, length: 64 }, key, plain));
  const unpadded = (bytes) => Buffer.from(bytes).toString("base64").replace(/=+$/, "");
  const hash = await webcrypto.subtle.digest("SHA-256", cipher);
  return { cipher, file: { v: "v2", key: await webcrypto.subtle.exportKey("jwk", key), iv: unpadded(iv), hashes: { sha256: unpadded(hash) } } };
}

export async function decryptFile(cipher, file) {
  const hash = Buffer.from(await webcrypto.subtle.digest("SHA-256", cipher)).toString("base64").replace(/=+$/, "");
  if (hash !== file.hashes.sha256) throw new Error("the file is not what was sent");
  const key = await webcrypto.subtle.importKey("jwk", file.key, { name: "AES-CTR" }, false, ["decrypt"]);
  return Buffer.from(await webcrypto.subtle.decrypt({ name: "AES-CTR", counter: Buffer.from(file.iv, "base64"), length: 64 }, key, cipher));
}

// twoPeople runs a program against every shape: it is given the base URL and an empty directory, is two people, alice and bob, and
// prints "done" at its end.
export function twoPeople(client, command, settings) {
  for (const shape of Object.keys(shapes)) {
    test(`${client} against ${shape}`, async () => {
      const server = await startLyceum(shape, settings);
      try {
        for (const name of ["alice", "bob"]) await register(server.base, name);
        const [program, ...args] = await command();
        const { stdout } = await promisify(execFile)(program, [...args, server.base, server.dir], { timeout: 180_000 });
        assert.match(stdout, /^done$/m);
      } catch (error) {
        throw new Error(`${error.message}\n${error.stdout ?? ""}`);
      } finally {
        await server.stop();
      }
    });
  }
}
