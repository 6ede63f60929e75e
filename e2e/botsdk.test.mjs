// A bot with matrix-bot-sdk in rooms of a person. Its encryption is a native library that no package brings, so the bot speaks in
// the clear here; the same SDK's bots do so where that library is missing.
import assert from "node:assert/strict";
import Module from "node:module";
import { after, before, describe, test } from "node:test";
import { call, register, shapes, startLyceum, until } from "./server.mjs";

const load = Module._load;
Module._load = (name, ...rest) => (name === "@matrix-org/matrix-sdk-crypto-nodejs" ? {} : load(name, ...rest));
const require = Module.createRequire(import.meta.url);
const { LogLevel, LogService, MatrixAuth, MatrixClient, MemoryStorageProvider, AutojoinRoomsMixin, PowerLevelAction } = require("matrix-bot-sdk");
LogService.setLevel(LogLevel.ERROR);

for (const shape of Object.keys(shapes)) {
  describe(`matrix-bot-sdk against ${shape}`, () => {
    let lyceum, bot, alice, roomId;
    const seen = [];
    before(async () => {
      lyceum = await startLyceum(shape);
      alice = await register(lyceum.base, "alice");
    });
    after(async () => {
      bot?.stop();
      await lyceum?.stop();
    });
    const ask = (method, path, body) => call(lyceum.base, method, `/_matrix/client/v3${path}`, body, alice.access_token);

    test("the bot registers, logs in, and joins where it is invited", async () => {
      await new MatrixAuth(lyceum.base).passwordRegister("bot", "bot-password");
      const login = await new MatrixAuth(lyceum.base).passwordLogin("bot", "bot-password", "bot");
      bot = new MatrixClient(lyceum.base, login.accessToken, new MemoryStorageProvider());
      AutojoinRoomsMixin.setupOnClient(bot);
      bot.on("room.message", (room, event) => seen.push(event));
      bot.on("room.event", (room, event) => seen.push(event));
      await bot.start();
      assert.equal(await bot.getUserId(), "@bot:e2e.test");
      assert.equal((await bot.getUserProfile("@bot:e2e.test")).displayname, "bot");
      roomId = (await ask("POST", "/createRoom", { preset: "private_chat", name: "Bots", invite: ["@bot:e2e.test"] })).room_id;
      await until("the bot is in the room", async () => (await bot.getJoinedRooms()).includes(roomId));
      assert.deepEqual((await bot.getJoinedRoomMembers(roomId)).sort(), [alice.user_id, "@bot:e2e.test"]);
    });

    test("it hears, answers, edits, reacts and redacts", async () => {
      await ask("PUT", `/rooms/${encodeURIComponent(roomId)}/send/m.room.message/1`, { msgtype: "m.text", body: "!hello" });
      const event = await until("the command", () => seen.find((e) => e.content?.body === "!hello"));
      await bot.setTyping(roomId, true, 5000);
      const answer = await bot.replyText(roomId, event, "hello");
      const old = await bot.sendHtmlText(roomId, "<b>bold</b>");
      assert.equal((await bot.getEvent(roomId, old)).content.formatted_body, "<b>bold</b>");
      await bot.sendNotice(roomId, "working");
      await bot.sendEvent(roomId, "m.reaction", { "m.relates_to": { rel_type: "m.annotation", event_id: event.event_id, key: "👍" } });
      await bot.redactEvent(roomId, old, "a slip");
      await bot.sendReadReceipt(roomId, event.event_id);
      assert.deepEqual((await bot.getEvent(roomId, old)).content, {});
      assert.match((await bot.getEvent(roomId, answer)).content.body, /hello/);
      const related = await bot.getRelationsForEvent(roomId, event.event_id, "m.annotation");
      assert.equal(related.chunk.length, 1);
      assert.ok((await bot.getEventContext(roomId, event.event_id, 5)).event);
    });

    test("files, state, levels, aliases, account data and a space", async () => {
      const data = Buffer.from("x,y\n1,2\n");
      const url = await bot.uploadContent(data, "text/csv", "t.csv");
      assert.deepEqual((await bot.downloadContent(url)).data, data);
      const made = await bot.createRoom({ preset: "public_chat", name: "Made by a bot", room_alias_name: "made" });
      assert.equal(await bot.resolveRoom("#made:e2e.test"), made);
      await bot.sendStateEvent(made, "m.room.topic", "", { topic: "numbers" });
      assert.equal((await bot.getRoomStateEvent(made, "m.room.topic", "")).topic, "numbers");
      await bot.setUserPowerLevel(alice.user_id, made, 50);
      assert.ok(await bot.userHasPowerLevelFor(alice.user_id, made, "m.room.topic", true));
      assert.ok(await bot.userHasPowerLevelForAction("@bot:e2e.test", made, PowerLevelAction.Ban));
      await bot.inviteUser(alice.user_id, made);
      await ask("POST", `/join/${encodeURIComponent(made)}`, {});
      await bot.kickUser(alice.user_id, made, "again");
      await bot.banUser(alice.user_id, made);
      await bot.unbanUser(alice.user_id, made);
      await bot.setAccountData("org.example.state", { n: 1 });
      assert.deepEqual(await bot.getAccountData("org.example.state"), { n: 1 });
      const space = await bot.createSpace({ name: "All of it", isPublic: true, localpart: "all" });
      await space.addChildRoom(made);
      assert.ok(made in (await space.getChildEntities()));
      await bot.setDisplayName("The Bot");
      assert.equal((await bot.getUserProfile("@bot:e2e.test")).displayname, "The Bot");
      await bot.leaveRoom(made);
      await bot.forgetRoom(made);
    });
  });
}
