// Cinny, a Matrix client, in a real browser: two people against one process and against a split fleet. CINNY names the directory of
// a build of Cinny 4.2.2; without it every test here is skipped.
import assert from "node:assert/strict";
import { existsSync } from "node:fs";
import { mkdir, readFile } from "node:fs/promises";
import { createServer } from "node:http";
import { extname, join } from "node:path";
import { after, before, describe, test } from "node:test";
import { chromium } from "playwright-core";
import { call, shapes, startLyceum, until } from "./server.mjs";

const build = process.env.CINNY;
const skip = build ? false : "CINNY is not set: make a build of Cinny 4.2.2 (npm ci && npm run build) and set CINNY to its directory dist";
const program = process.env.CHROMIUM ?? ["/usr/bin/chromium", "/usr/bin/chromium-browser", "/usr/bin/google-chrome"].find(existsSync);
const pictures = process.env.LYCEUM_PICTURES; // a directory: the pages are kept there as pictures when a step fails

const contentTypes = {
  ".css": "text/css", ".html": "text/html", ".js": "text/javascript", ".json": "application/json", ".png": "image/png",
  ".svg": "image/svg+xml", ".wasm": "application/wasm", ".woff2": "font/woff2",
};

// picture is a red PNG, two pixels wide.
const picture = "iVBORw0KGgoAAAANSUhEUgAAAAIAAAACCAIAAAD91JpzAAAAEElEQVR42mP4z8AARAwQCgAf7gP9i18U1AAAAABJRU5ErkJggg==";

// expected are the answers of 400 and above that belong to what is tested.
const expected = [
  /^GET \/\.well-known\/matrix\/client 404/, // Cinny asks, and takes the address that it was given
  /^POST \/_matrix\/client\/v3\/register 401/, // the stages of the registration
  /^GET \/_matrix\/client\/v3\/room_keys\/version 404/, // there is no backup yet
  /^GET \/_matrix\/client\/v3\/room_keys\/keys\/\S+ 404/, // Cinny looks there for a key that it is about to read from a message
  /^GET \/_matrix\/client\/v3\/voip\/turnServer 404/, // calls are not offered
];

// serveCinny serves the build, with the server at base as its only homeserver. Paths that are no files are pages of the application.
async function serveCinny(base) {
  const hashRouter = { enabled: false, basename: "/" };
  const config = JSON.stringify({ defaultHomeserver: 0, homeserverList: [base], allowCustomHomeservers: false, hashRouter });
  const server = createServer(async (request, response) => {
    const { pathname } = new URL(request.url, "http://localhost");
    const name = pathname.endsWith("/olm.wasm") ? "/olm.wasm" : pathname;
    const file = name === "/config.json" ? config : await readFile(join(build, name)).catch(() => undefined);
    const type = file ? contentTypes[extname(name)] ?? "application/octet-stream" : "text/html";
    response.setHeader("Content-Type", type);
    response.end(file ?? (await readFile(join(build, "index.html"))));
  });
  await new Promise((done) => server.listen(0, "127.0.0.1", done));
  return { address: `http://127.0.0.1:${server.address().port}`, stop: () => (server.closeAllConnections(), server.close()) };
}

for (const shape of Object.keys(shapes)) {
  describe(`Cinny against ${shape}`, () => {
    let lyceum, site, browser, alice, bob, second; // second is another session of alice
    const pages = {};
    const refused = [];

    const step = (name, body) => test(name, { skip }, async () => {
      const seen = refused.length;
      try {
        await body();
      } catch (error) {
        if (pictures) await mkdir(pictures, { recursive: true });
        for (const [who, page] of Object.entries(pages)) {
          if (pictures) await page.screenshot({ path: join(pictures, `cinny ${shape} ${name} ${who}.png`) });
        }
        throw new Error(`${error.message}\nrefused in this step: ${refused.slice(seen).join("\n")}`, { cause: error });
      }
    });

    async function open(who) {
      const context = await browser.newContext({ viewport: { width: 1440, height: 900 } });
      const page = await context.newPage();
      page.setDefaultTimeout(20_000);
      page.on("response", async (response) => {
        if (response.status() < 400 || !response.url().startsWith(lyceum.base)) return;
        const answer = `${response.request().method()} ${response.url().slice(lyceum.base.length)} ${response.status()}`;
        if (!expected.some((pattern) => pattern.test(answer))) refused.push(`${who}: ${answer} ${await response.text().catch(() => "")}`);
      });
      pages[who] = page;
      return page;
    }

    const token = (page) => page.evaluate(() => localStorage.getItem("cinny_access_token"));
    const api = async (page, method, path, body) => call(lyceum.base, method, `/_matrix/client/v3/${path}`, body, await token(page));
    const accountData = async (page, type) => (await api(page, "GET", "sync")).account_data.events.find((e) => e.type === type).content;
    const editor = (page) => page.locator("[data-editable-name=RoomInput]");
    const room = (page) => decodeURIComponent(page.url().split("/").pop());
    const tab = (page, number) => page.locator("button").nth(number); // the bar at the left: home, direct messages, spaces, explore, …
    const link = (page, name) => page.getByRole("link", { name });
    const closeDialog = (page) => page.locator(".ReactModal__Content .header .ic-btn").last().click();

    async function type(page, text) {
      await editor(page).click();
      await page.keyboard.type(text);
    }

    async function say(page, text) {
      await type(page, text);
      await page.keyboard.press("Enter");
    }

    async function choose(page, name, entry) {
      await link(page, name).click({ button: "right" });
      await page.getByText(entry, { exact: true }).click();
    }

    const stored = (id, text) => until(`the server has: ${text}`, async () => {
      const { chunk } = await api(alice, "GET", `rooms/${encodeURIComponent(id)}/messages?dir=b&limit=10`);
      return chunk.some((event) => event.content.body === text);
    });

    async function upload(page, file) {
      const plus = editor(page).locator("xpath=preceding::button[1]");
      const [chooser] = await Promise.all([page.waitForEvent("filechooser"), plus.click()]);
      await chooser.setFiles(file);
      await page.getByRole("button", { name: "Send", exact: true }).click();
    }

    // enter waits until the room is open in a part of Cinny. For a direct chat or a room of a space that has just been joined, Cinny
    // opens it among the other rooms first, and then shows a card with the way to it.
    const parts = { home: /^\/home\//, direct: /^\/direct\//, space: /^\/(!|%21)[^/]+\/(!|%21)/ };
    const enter = (page, part) => until(`the room is open: ${part}`, async () => {
      const path = await page.evaluate(() => document.querySelector("[data-editable-name=RoomInput]") && location.pathname);
      if (path && parts[part].test(path)) return true;
      const view = page.getByRole("button", { name: "View", exact: true });
      if (await view.isVisible()) await view.click();
      return false;
    });

    // findUser fills the dialog that invites and starts direct chats, and presses the button beside the user.
    async function findUser(page, user, button) {
      await page.locator(".invite-user__form input").fill(user);
      await page.locator(".invite-user__form").getByRole("button", { name: "Search" }).click();
      await page.locator(".invite-user__content").getByRole("button", { name: button }).click();
    }

    async function invite(page, user) {
      await findUser(page, user, "Invite");
      await page.locator(".invite-user__content").getByText("Invited").waitFor();
      await closeDialog(page);
    }

    // accept accepts the invitation to the room of that name: after its start Cinny may show an older one for a moment.
    async function accept(page, name) {
      await page.goto(`${site.address}/inbox/invites/`);
      await page.getByText(name, { exact: true }).first().locator("xpath=following::button[normalize-space()='Accept'][1]").click();
    }

    async function createRoom(page, name, { topic, plain } = {}) {
      const dialog = page.locator(".create-room");
      await dialog.locator("[name=name]").fill(name);
      if (topic) await dialog.locator("[name=topic]").fill(topic);
      if (plain) await dialog.locator(".toggle").click();
      await dialog.getByRole("button", { name: "Create", exact: true }).click();
    }

    before(async () => {
      if (!build) return;
      assert.ok(program, "chromium is missing: make packages");
      assert.ok(existsSync(join(build, "index.html")), `CINNY names ${build}, which has no index.html: name the directory dist of a build`);
      lyceum = await startLyceum(shape);
      site = await serveCinny(lyceum.base);
      browser = await chromium.launch({
        executablePath: program,
        args: [
          "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--disable-background-networking",
          "--disable-component-update", "--disable-sync",
        ],
      });
    });
    after(async () => {
      await browser?.close();
      site?.stop();
      await lyceum?.stop();
    });

    step("two people register", async () => {
      [alice, bob] = [await open("alice"), await open("bob")];
      for (const [page, name] of [[alice, "alice"], [bob, "bob"]]) {
        await page.goto(`${site.address}/register`);
        await page.fill("[name=usernameInput]", name);
        await page.fill("[name=passwordInput]", `${name}-password`);
        await page.fill("[name=confirmPasswordInput]", `${name}-password`);
        await page.getByRole("button", { name: "Register" }).click();
        await page.getByText("Welcome to Cinny").waitFor();
        assert.equal((await api(page, "GET", "account/whoami")).user_id, `@${name}:e2e.test`);
      }
    });

    step("cross-signing and the backup of keys are set up", async () => {
      await alice.locator("button").filter({ hasText: /^a$/i }).click(); // the settings
      await alice.getByText("Security", { exact: true }).click();
      await alice.locator(".setting-tile", { hasText: "Cross signing" }).getByText("Setup", { exact: true }).click();
      await alice.getByRole("button", { name: "Generate Key", exact: true }).click();
      const key = alice.locator(".cross-signing__key-text");
      const password = alice.locator(".auth-request [name=password]");
      await key.or(password).first().waitFor();
      if (await password.isVisible()) { // a server may want the password even for the first keys
        await password.fill("alice-password");
        await alice.getByRole("button", { name: "Continue" }).click();
      }
      await until("the security key", async () => /^(\w{4} ){11}\w{4}$/.test(await key.innerText()));
      await closeDialog(alice);
      await alice.getByText("No unverified sessions").waitFor();
      const keys = await api(alice, "POST", "keys/query", { device_keys: { "@alice:e2e.test": [] } });
      for (const kind of ["master_keys", "self_signing_keys", "user_signing_keys"]) assert.ok(keys[kind]["@alice:e2e.test"], kind);
      assert.equal((await api(alice, "GET", "room_keys/version")).algorithm, "m.megolm_backup.v1.curve25519-aes-sha2");
    });

    step("a second session logs in and is verified with emoji", async () => {
      second = await open("second");
      await second.goto(`${site.address}/login`);
      await second.fill("[name=usernameInput]", "alice");
      await second.fill("[name=passwordInput]", "alice-password");
      await second.getByRole("button", { name: "Login", exact: true }).click();
      await second.getByText("Welcome to Cinny").waitFor();
      await alice.locator(".device-manage .setting-tile").getByText("Verify", { exact: true }).click();
      await second.getByText("Click accept to start").waitFor();
      await second.getByRole("button", { name: "Accept" }).click();
      const emoji = (page) => page.locator(".emoji-verification__emoji-block").allInnerTexts();
      await until("seven emoji in both sessions", async () => (await emoji(alice)).length === 7 && (await emoji(second)).length === 7);
      assert.deepEqual(await emoji(alice), await emoji(second));
      for (const page of [alice, second]) await page.getByText("They match").click();
      for (const page of [alice, second]) await page.locator(".emoji-verification__content").waitFor({ state: "detached" });
      await alice.getByText("No unverified sessions").waitFor();
      const { device_id: device } = await api(second, "GET", "account/whoami");
      await until("the signature of the second session", async () => {
        const keys = await api(alice, "POST", "keys/query", { device_keys: { "@alice:e2e.test": [] } });
        const [signer] = Object.keys(keys.self_signing_keys["@alice:e2e.test"].keys);
        return keys.device_keys["@alice:e2e.test"][device].signatures["@alice:e2e.test"][signer];
      });
      await closeDialog(alice);
    });

    step("an encrypted direct chat carries text both ways, and to the second session", async () => {
      await tab(alice, 1).click();
      await alice.getByRole("button", { name: "Direct Message" }).click();
      await findUser(alice, "@bob:e2e.test", "Message");
      await alice.locator(".invite-user__content").getByRole("button", { name: "Open" }).click();
      await enter(alice, "direct");
      await accept(bob, "alice");
      await enter(bob, "direct");
      await alice.getByText("bob joined the room").waitFor();
      await say(alice, "hello from alice");
      await bob.getByText("hello from alice").waitFor();
      await say(bob, "hello from bob");
      await alice.getByText("hello from bob").waitFor();
      const { chunk } = await api(alice, "GET", `rooms/${encodeURIComponent(room(alice))}/messages?dir=b&limit=5`);
      assert.ok(!JSON.stringify(chunk).includes("hello from"), "the server has plain text of an encrypted room");
      await tab(second, 1).click();
      await link(second, "bob").click();
      for (const text of ["hello from alice", "hello from bob"]) await second.getByText(text).waitFor();
      await until("keys in the backup", async () => (await api(alice, "GET", "room_keys/version")).count > 0);
      for (const page of [alice, bob]) {
        const direct = await accountData(page, "m.direct");
        assert.ok(Object.values(direct).flat().includes(room(alice)), JSON.stringify(direct));
      }
    });

    step("an encrypted file is seen by the other", async () => {
      await upload(alice, { name: "notes.txt", mimeType: "text/plain", buffer: Buffer.from("a secret in a file") });
      await bob.getByRole("button", { name: "Open File" }).click();
      await bob.getByText("a secret in a file").waitFor();
      await bob.keyboard.press("Escape");
      await bob.getByText("a secret in a file").waitFor({ state: "detached" });
    });

    step("who types is seen by the other, until the message is sent", async () => {
      const typing = alice.getByText("is typing...");
      await type(bob, "this takes a while");
      await typing.waitFor();
      await bob.keyboard.press("Enter");
      await typing.waitFor({ state: "detached" });
      await alice.getByText("this takes a while").waitFor();
    });

    step("a room without encryption carries text and a picture", async () => {
      await tab(alice, 0).click();
      await alice.getByText("Create Room").first().click();
      await createRoom(alice, "Meeting", { topic: "First topic", plain: true });
      await enter(alice, "home");
      await choose(alice, "Meeting", "Invite");
      await invite(alice, "@bob:e2e.test");
      await accept(bob, "Meeting");
      await enter(bob, "home");
      await bob.getByText("First topic").first().waitFor();
      await say(alice, "the brown fox jumps");
      await bob.getByText("the brown fox jumps").waitFor();
      await upload(alice, { name: "red.png", mimeType: "image/png", buffer: Buffer.from(picture, "base64") });
      const width = () => bob.evaluate(() => document.querySelector("img[alt='red.png']")?.naturalWidth);
      await until("the picture, which needs the access token", async () => (await width()) === 2);
    });

    step("an unread message is counted, and a read receipt clears it", async () => {
      const badge = tab(bob, 0).locator("xpath=.."); // the number stands beside the button
      const follows = alice.getByText("is following the conversation");
      await tab(bob, 1).click();
      await link(bob, "alice").click();
      await enter(bob, "direct");
      await say(alice, "did you read this?");
      await until("one unread message", async () => (await badge.innerText()).trim() === "1");
      await follows.waitFor({ state: "detached" });
      const count = async () => (await api(bob, "GET", "sync")).rooms.join[room(alice)].unread_notifications.notification_count;
      assert.equal(await count(), 1);
      await tab(bob, 0).click();
      await bob.getByText("did you read this?").waitFor();
      await follows.waitFor();
      await until("no unread message", async () => (await badge.innerText()).trim() === "");
      assert.equal(await count(), 0);
    });

    step("a room is muted and made loud again", async () => {
      const modes = alice.locator(".room-notification");
      const silent = (rule) => rule.rule_id === room(alice) && rule.enabled && !rule.actions.includes("notify");
      const both = async () => { // as the push rules are read, and as account data brings them to every session
        const rules = [await api(alice, "GET", "pushrules/"), await accountData(alice, "m.push_rules")];
        return rules.map(({ global }) => global.override.some(silent));
      };
      const told = async () => (await api(alice, "GET", "notifications")).notifications.map(({ event }) => event.content.body);
      await choose(alice, "Meeting", "Room Settings");
      await modes.getByText("Mute", { exact: true }).click();
      await until("the room is muted", async () => (await both()).every((value) => value));
      await say(bob, "nobody is told of this");
      await stored(room(alice), "nobody is told of this");
      assert.ok(!(await told()).includes("nobody is told of this"), "a muted room notified");
      await modes.getByText("Global", { exact: true }).click();
      await until("the room is loud", async () => (await both()).every((value) => !value));
      await say(bob, "alice is told of this");
      await until("a notification", async () => (await told()).includes("alice is told of this"));
    });

    step("the name and the topic are changed, and seen by the other", async () => {
      await alice.locator(".room-profile__display .ic-btn").click();
      await alice.fill("[name=room-name]", "Planning");
      await alice.fill("[name=room-topic]", "Second topic");
      await alice.getByRole("button", { name: "Save" }).click();
      await alice.getByText("Saved successfully").waitFor();
      for (const text of ["Planning", "Second topic"]) await bob.getByText(text).first().waitFor();
    });

    step("the other becomes a moderator", async () => {
      const role = alice.locator(".profile-viewer__user__role button");
      await alice.locator(".room-settings").getByText("Members", { exact: true }).click();
      await alice.locator(".room-members__list").getByText("bob").first().click();
      await role.click();
      await alice.locator(".power-level-selector").getByText("Mod - 50").click();
      await until("the new role", async () => (await role.innerText()).trim() === "Mod - 50");
      const levels = await api(bob, "GET", `rooms/${encodeURIComponent(room(alice))}/state/m.room.power_levels/`);
      assert.equal(levels.users["@bob:e2e.test"], 50);
      await closeDialog(alice);
      await closeDialog(alice);
      await bob.reload(); // the list of members of Cinny 4.2.2 does not follow in rooms that were joined by an invitation
      await bob.getByText("Moderator", { exact: true }).waitFor();
    });

    step("a message is found by its words", async () => {
      await alice.getByText("Message Search").click();
      await alice.fill("[name=searchInput]", "brown");
      await alice.press("[name=searchInput]", "Enter");
      await alice.getByText("Results for").waitFor();
      await alice.getByText("fox jumps").waitFor();
      await alice.getByText("brown", { exact: true }).waitFor(); // marked, as the server names it among the words that were found
    });

    step("a space with a room is made, and the other joins both", async () => {
      await tab(alice, 3).click();
      await createRoom(alice, "Office");
      await alice.getByRole("button", { name: "Add Room" }).click();
      await alice.getByText("New Room").click();
      await createRoom(alice, "Kitchen");
      await enter(alice, "space");
      await alice.locator("button").filter({ hasText: /^Of$/ }).click({ button: "right" });
      await alice.getByText("Invite", { exact: true }).click();
      await invite(alice, "@bob:e2e.test");
      await accept(bob, "Office");
      await bob.getByText("Kitchen").first().waitFor();
      await bob.getByRole("button", { name: "Join", exact: true }).click(); // by being a member of the space
      await link(bob, "Kitchen").click();
      await enter(bob, "space");
      await say(bob, "is there coffee?");
      await alice.getByText("is there coffee?").waitFor();
    });

    step("the server refused nothing that Cinny asked for", async () => {
      assert.deepEqual(refused, []);
    });
  });
}
