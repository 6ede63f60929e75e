// The status page in a real browser: against one process and against a fleet, in light and dark, on a phone.
import assert from "node:assert/strict";
import { existsSync } from "node:fs";
import { mkdir, readFile } from "node:fs/promises";
import { join } from "node:path";
import { after, before, describe, test } from "node:test";
import { chromium } from "playwright-core";
import { addUser, call, register, startLyceum, until } from "./server.mjs";

const program = process.env.CHROMIUM ?? ["/usr/bin/chromium", "/usr/bin/chromium-browser", "/usr/bin/google-chrome"].find(existsSync);
const axe = await readFile(join(import.meta.dirname, "node_modules/axe-core/axe.min.js"), "utf8");
const pictures = process.env.LYCEUM_PICTURES; // a directory: the page is kept there as pictures

// views are how the page is looked at.
const views = {
  light: { colorScheme: "light", viewport: { width: 1440, height: 900 } },
  dark: { colorScheme: "dark", viewport: { width: 1440, height: 900 } },
  phone: { colorScheme: "light", viewport: { width: 360, height: 740 }, hasTouch: true },
  "dark phone": { colorScheme: "dark", viewport: { width: 360, height: 740 }, hasTouch: true },
};

const shapes = {
  "one process": async () => ({ args: ["serve"], env: {}, others: [] }),
  "a fleet": async () => ({ args: ["up"], env: {}, others: [] }),
};

for (const [shape, start] of Object.entries(shapes)) {
  describe(`the status page of ${shape}`, () => {
    let lyceum, browser, password, page, context;
    const complaints = [];

    async function open(view, user = "root", secret = password) {
      const made = await browser.newContext(views[view]);
      const tab = await made.newPage();
      tab.on("console", (m) => {
        if (m.type() === "error" && !tab.unreachable) complaints.push(`${view}: ${m.text()} ${m.location().url}`);
      });
      tab.on("pageerror", (error) => complaints.push(`${view}: ${error.stack}`));
      tab.on("request", (request) => {
        if (!request.url().startsWith(lyceum.base)) complaints.push(`${view}: asked ${request.url()}`);
      });
      await tab.goto(`${lyceum.base}/_lyceum/status`);
      await tab.fill("[name=user]", user);
      await tab.fill("[name=password]", secret);
      await tab.press("[name=password]", "Enter");
      return [tab, made];
    }

    const text = (selector) => page.locator(selector).innerText();

    before(async () => {
      assert.ok(program, "chromium is missing: make packages");
      lyceum = await startLyceum(start);
      password = await addUser(lyceum, shape, "root", "--admin");
      await addUser(lyceum, shape, "reader");
      browser = await chromium.launch({
        executablePath: program,
        args: ["--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--disable-background-networking", "--disable-component-update", "--disable-sync"],
      });
      if (pictures) await mkdir(pictures, { recursive: true });
    });
    after(async () => {
      await browser?.close();
      await lyceum?.stop();
    });

    test("others than administrators are told so, and keep no token", async () => {
      const [tab, made] = await open("light", "reader", "reader-password");
      tab.unreachable = true; // the browser writes each refused question into its console
      await tab.getByText("is not an administrator of this server").waitFor();
      assert.equal(await tab.evaluate(() => sessionStorage.length + localStorage.length), 0);
      await tab.fill("[name=password]", "wrong");
      await tab.click("[type=submit]");
      await tab.getByText("wrong").waitFor();
      if (pictures) await tab.screenshot({ path: join(pictures, `${shape} log-in.png`) });
      await made.close();
      complaints.length = 0; // 401 and 403 of this test
    });

    test("an administrator sees the fleet live", async () => {
      [page, context] = await open("light");
      await page.locator("#processes .row-busy, #processes tbody tr").first().waitFor();
      const rows = page.locator("#processes tbody tr");
      const expected = shape === "one process" ? 1 : lyceum.processes.length;
      await until("all processes", async () => (await rows.count()) === expected);
      assert.match(await text("#glance"), new RegExp(`${expected} of ${expected}`));
      assert.match(await text(".top h1"), /e2e\.test/);
      const login = await register(lyceum.base, "alice");
      const { room_id: room } = await call(lyceum.base, "POST", "/_matrix/client/v3/createRoom", {}, login.access_token);
      const waiting = new AbortController();
      const sync = await call(lyceum.base, "GET", "/_matrix/client/v3/sync", undefined, login.access_token);
      fetch(`${lyceum.base}/_matrix/client/v3/sync?timeout=60000&since=${sync.next_batch}&filter=${encodeURIComponent('{"room":{"rooms":[]},"presence":{"types":[]},"account_data":{"types":[]}}')}`,
        { headers: { Authorization: `Bearer ${login.access_token}` }, signal: waiting.signal }).catch(() => undefined);
      let sent = 0, sending = true;
      const sender = (async () => {
        while (sending) {
          await call(lyceum.base, "PUT", `/_matrix/client/v3/rooms/${encodeURIComponent(room)}/send/m.room.message/t${sent++}`, { msgtype: "m.text", body: "x" }, login.access_token);
          await new Promise((done) => setTimeout(done, 20));
        }
      })();
      const tile = (name) => page.locator(".tile", { hasText: name }).locator("b").first().innerText();
      await until("a rate of messages", async () => Number(await tile("Messages")) > 1);
      await until("a commit latency", async () => /ms|s/.test(await tile("Commit p95")));
      if (shape === "a fleet") {
        const card = page.locator('[aria-label="Stream events"]');
        await until("the time that events take to the other processes", async () => /Delivery p95\s*[\d.]+ (ms|s)/.test(await card.innerText()));
      }
      await until("a waiting client", async () => Number(await tile("Waiting clients")) >= 1);
      await until("the route that sends, with its p95", async () => {
        const row = page.locator("#routes tbody tr", { hasText: "/send/" });
        return (await row.count()) > 0 && / ms/.test(await row.locator("[data-name=p95]").innerText());
      });
      sending = false;
      await sender;
      waiting.abort();
      await until("the doctor and the plan", async () => /check/.test(await text("#doctor")) && /wanted/i.test(await text("#plan")));
      for (const name of ["events", "receipts", "to_device"]) await page.locator(`[aria-label="Stream ${name}"] .shard`).first().waitFor();
      assert.equal(await page.locator(".shard.nobody").count(), 0);
      assert.match(await text("#engines"), shape === "one process" ? /SQLite/ : /PostgreSQL[\s\S]*Connections[\s\S]*Redis[\s\S]*Memory/);
      assert.match(await text("#jobs"), /housekeeping/);
      assert.equal(await page.locator(".plot canvas").count(), 6);
    });

    test("tables sort by what is clicked, with the keyboard too", async () => {
      const head = page.locator("#routes thead th", { hasText: "Total" });
      await head.locator("button").focus();
      await page.keyboard.press("Enter");
      assert.equal(await head.getAttribute("aria-sort"), "descending");
      const values = (await page.locator("#routes tbody [data-name=Total]").allInnerTexts()).map((v) => Number(v.replace(/\D/g, "")));
      assert.deepEqual(values, [...values].sort((a, b) => b - a));
      await page.keyboard.press("Enter");
      assert.equal(await head.getAttribute("aria-sort"), "ascending");
    });

    test("a pause and a hidden tab ask nothing", async () => {
      let asked = 0;
      const counted = (request) => (asked += request.url().endsWith("/v1/status") ? 1 : 0);
      await page.getByRole("button", { name: "Pause" }).click();
      await page.waitForTimeout(500); // what was under way
      page.on("request", counted);
      await page.waitForTimeout(4500); // nothing shows that nothing comes, but time
      assert.equal(asked, 0);
      await page.getByRole("button", { name: "Go on" }).click();
      await until("questions again", () => asked > 0);
      await page.evaluate(() => {
        Object.defineProperty(document, "hidden", { configurable: true, get: () => true });
        document.dispatchEvent(new Event("visibilitychange"));
      });
      await page.waitForTimeout(500);
      asked = 0;
      await page.waitForTimeout(4500);
      assert.equal(asked, 0);
      await page.evaluate(() => {
        delete document.hidden;
        document.dispatchEvent(new Event("visibilitychange"));
      });
      await until("questions of a seen tab", () => asked > 0);
      page.off("request", counted);
    });

    test("colours follow the system, until they are chosen", async () => {
      const ground = () => page.evaluate(() => getComputedStyle(document.body).backgroundColor);
      const light = await ground();
      await page.emulateMedia({ colorScheme: "dark" });
      await until("a dark page", async () => (await ground()) !== light);
      await page.getByRole("button", { name: /Colours/ }).click();
      await until("light, as chosen", async () => (await ground()) === light);
      await page.getByRole("button", { name: /Colours/ }).click();
      await page.getByRole("button", { name: /Colours/ }).click();
      await page.emulateMedia({ colorScheme: "light" });
    });

    test("a rollout is a bar with its state", async () => {
      const now = new Date().toISOString();
      const rollout = { from: "1.2.3", to: "1.3.0", state: "running", done: 2, of: 6, now: "events-1", started: now, changed: now };
      await page.route("**/v1/status", async (route) => {
        const response = await route.fetch();
        await route.fulfill({ response, json: { ...(await response.json()), rollout } });
      });
      await until("the bar", async () => (await page.locator("#rollout progress").getAttribute("value", { timeout: 1000 })) === "2", 20);
      assert.match(await text("#rollout"), /running[\s\S]*1\.2\.3 to 1\.3\.0, 2 of 6[\s\S]*events-1/);
      Object.assign(rollout, { state: "rolled back", reason: "errors rose", done: 0 });
      await until("its end", async () => /rolled back[\s\S]*errors rose/.test(await text("#rollout")) && /rolled back, errors rose/.test(await text("#changes")), 20);
      await page.unroute("**/v1/status");
    });

    if (shape === "a fleet") {
      test("a killed process is shown, and its shards move, within 10 s", async () => {
        const victim = lyceum.processes.find((p) => p.name.startsWith("events"));
        const row = page.locator("#processes tbody tr", { hasText: new RegExp(`process ${victim.pid}$`) });
        const machine = (await row.locator(".machine").innerText()).replace(/\D/g, "");
        const changes = () => text("#changes");
        process.kill(victim.pid, "SIGKILL");
        const killed = Date.now();
        await until("the loss", async () => new RegExp(`machine ${machine} .*(does not answer|is gone)`).test(await changes()), 10);
        await until("its shards moved", async () => new RegExp(`events: shards? [\\d–, ]+ (moved from machine ${machine}|lost their owner, machine ${machine})`).test(await changes()), Math.max(10 - (Date.now() - killed) / 1000, 1));
        await page.locator(".shard.moved").first().waitFor({ timeout: 10_000 });
        if (pictures) await page.screenshot({ path: join(pictures, `${shape} killed.png`), fullPage: true });
        await until("every shard has an owner", async () => (await page.locator(".shard.nobody").count()) === 0, 20);
        await until("the process is back under another id", async () => /joined/.test(await changes()), 30);
      });
    }

    test("a server that does not answer is told, and found again", async () => {
      const { pid } = shape === "one process" ? lyceum : lyceum.processes.find((p) => p.name.startsWith("client") || p.name.includes("router"));
      page.unreachable = true;
      process.kill(pid, "SIGSTOP");
      try {
        await page.locator(".banner", { hasText: "old" }).waitFor({ timeout: 20_000 });
        await until("the head says it", async () => /no answer/.test(await text(".health")));
        if (pictures) await page.screenshot({ path: join(pictures, `${shape} stale.png`) });
      } finally {
        process.kill(pid, "SIGCONT");
      }
      await until("the page is live again", async () => (await page.locator(".banner").count()) === 0, 30);
      page.unreachable = false;
    });

    for (const view of Object.keys(views)) {
      test(`it is readable in ${view}: no overflow, and axe finds nothing`, async () => {
        const [tab, made] = await open(view);
        await tab.locator("#doctor details").waitFor();
        await until("two samples", async () => (await tab.locator(".tile", { hasText: "Requests p95" }).locator("b").innerText()) !== "–");
        if (pictures) await tab.screenshot({ path: join(pictures, `${shape} ${view}.png`), fullPage: true });
        const [wide, seen] = await tab.evaluate(() => [document.documentElement.scrollWidth, innerWidth]);
        assert.ok(wide <= seen, `the page is ${wide} wide in a window of ${seen}`);
        await tab.evaluate(axe);
        const { violations } = await tab.evaluate(() => globalThis.axe.run(document, { runOnly: ["wcag2a", "wcag2aa", "wcag21a", "wcag21aa", "wcag22aa", "best-practice"] }));
        assert.deepEqual(violations.map((v) => `${v.id}: ${v.nodes.slice(0, 3).map((n) => `${n.html.slice(0, 160)} ${n.any[0]?.message ?? ""}`).join(" | ")}`), []);
        await tab.getByRole("button", { name: "Log out" }).click();
        await tab.locator("[name=password]").waitFor();
        assert.equal(await tab.evaluate(() => sessionStorage.length), 0);
        await made.close();
      });
    }

    test("the browser has nothing to complain of, and asked nobody else", async () => {
      await context.close();
      assert.deepEqual(complaints, []);
    });
  });
}
