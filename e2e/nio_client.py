"""Two people with matrix-nio, in an encrypted room. Run by nio.test.mjs: nio_client.py BASE DIRECTORY. Prints a line for each step."""

import asyncio
import io
import logging
import os
import sys

import nio
from nio import AsyncClient, AsyncClientConfig

base, directory = sys.argv[1:]
logging.disable(logging.CRITICAL)


def check(answer, what):
    if isinstance(answer, (nio.ErrorResponse, nio.responses.LoginError)) or type(answer).__name__.endswith("Error"):
        raise SystemExit(f"{what}: {answer}")
    print("ok", what, flush=True)
    return answer


async def until(client, what, condition, tries=60):
    for _ in range(tries):
        if condition():
            print("ok", what, flush=True)
            return
        answer = await client.sync(timeout=500)
        if isinstance(answer, nio.SyncError):
            raise SystemExit(f"sync: {answer}")
        for task in ("keys_upload", "keys_query", "keys_claim"):
            if task == "keys_upload" and client.should_upload_keys:
                check(await client.keys_upload(), "keys are uploaded")
            if task == "keys_query" and client.should_query_keys:
                await client.keys_query()
            if task == "keys_claim" and client.should_claim_keys:
                await client.keys_claim(client.get_users_for_key_claiming())
        await client.send_to_device_messages()
    raise SystemExit(f"waited in vain: {what}")


async def login(name):
    store = os.path.join(directory, name)
    os.makedirs(store, exist_ok=True)
    client = AsyncClient(base, f"@{name}:e2e.test", store_path=store, config=AsyncClientConfig(encryption_enabled=True, store_sync_tokens=True))
    check(await client.login(f"{name}-password", device_name="nio"), f"{name} logs in")
    client.texts = []
    client.add_event_callback(lambda room, event: client.texts.append(event), (nio.RoomMessage, nio.MegolmEvent))
    check(await client.sync(timeout=0, full_state=True), f"{name} syncs")
    check(await client.keys_upload(), f"{name} uploads keys")
    return client


def text_of(client, body):
    return next((e for e in client.texts if getattr(e, "body", "") == body), None)


async def verify(alice, bob):
    """Both compare emoji: to-device messages of SAS."""
    device = alice.device_store[bob.user_id][bob.device_id]
    check(await alice.start_key_verification(device), "a verification is begun")
    await until(bob, "bob is asked", lambda: bob.key_verifications)
    identity = next(iter(bob.key_verifications))
    check(await bob.accept_key_verification(identity), "bob accepts")
    both = (alice, bob)
    for _ in range(20):
        if all(c.key_verifications[identity].other_key_set for c in both):
            break
        for c in both:
            await c.sync(timeout=300)
            await c.send_to_device_messages()
    first, second = (c.key_verifications[identity].get_emoji() for c in both)
    if first != second or len(first) != 7:
        raise SystemExit(f"emoji differ: {first} and {second}")
    check(await alice.confirm_short_auth_string(identity), "alice confirms")
    check(await bob.confirm_short_auth_string(identity), "bob confirms")
    for _ in range(5):
        await alice.sync(timeout=300)
        await bob.sync(timeout=300)
    if not alice.olm.is_device_verified(device):
        raise SystemExit("bob's device is not verified for alice")
    print("ok both are verified", flush=True)


async def main():
    alice, bob = await login("alice"), await login("bob")
    made = check(
        await alice.room_create(
            name="Seminar",
            invite=[bob.user_id],
            initial_state=[{"type": "m.room.encryption", "state_key": "", "content": {"algorithm": "m.megolm.v1.aes-sha2"}}],
        ),
        "a room is made",
    )
    room = made.room_id
    await until(bob, "bob is invited", lambda: room in bob.invited_rooms)
    check(await bob.join(room), "bob joins")
    await until(alice, "alice sees bob", lambda: room in alice.rooms and bob.user_id in alice.rooms[room].users and alice.rooms[room].encrypted)
    await until(bob, "bob sees the room", lambda: room in bob.rooms and bob.rooms[room].encrypted)
    check(await alice.joined_members(room), "members are listed")
    check(await bob.joined_members(room), "members are listed")
    check(await alice.devices(), "devices are listed")

    for here, there, body in ((alice, bob, "hello Bob"), (bob, alice, "hello Alice")):
        check(
            await here.room_send(room, "m.room.message", {"msgtype": "m.text", "body": body}, ignore_unverified_devices=True),
            f"a text is sent: {body}",
        )
        await until(there, f"it is read: {body}", lambda: text_of(there, body))

    await verify(alice, bob)

    data = b"a file that the server can not read\n" * 3000
    uploaded, keys = await alice.upload(io.BytesIO(data), content_type="text/plain", filename="a.txt", encrypt=True, filesize=len(data))
    check(uploaded, "an encrypted file goes up")
    got = check(await bob.download(mxc=uploaded.content_uri), "it comes down")
    plain = nio.crypto.attachments.decrypt_attachment(got.body, keys["key"]["k"], keys["hashes"]["sha256"], keys["iv"])
    if plain != data:
        raise SystemExit("the file is another one")

    check(await alice.room_typing(room, True, 10000), "alice types")
    await until(bob, "bob sees it", lambda: alice.user_id in bob.rooms[room].typing_users)
    last = text_of(bob, "hello Bob")
    check(await bob.update_receipt_marker(room, last.event_id), "bob has read it")
    check(await bob.room_read_markers(room, last.event_id, last.event_id), "a marker is set")
    await until(alice, "alice sees it", lambda: bob.user_id in alice.rooms[room].read_receipts)
    check(await alice.room_put_state(room, "m.room.topic", {"topic": "Second half"}), "a topic is set")
    await until(bob, "bob sees the topic", lambda: bob.rooms[room].topic == "Second half")
    levels = check(await alice.room_get_state_event(room, "m.room.power_levels"), "levels are read").content
    levels["users"] = {**levels.get("users", {}), bob.user_id: 50}
    check(await alice.room_put_state(room, "m.room.power_levels", levels), "levels are set")
    await until(bob, "bob has power", lambda: bob.rooms[room].power_levels.get_user_level(bob.user_id) == 50)
    check(await bob.room_messages(room, bob.next_batch, limit=50), "older messages are read")
    check(await bob.room_context(room, last.event_id), "the context is read")
    check(await alice.room_redact(room, last.event_id), "a text is taken back")
    check(await bob.set_pushrule("global", nio.PushRuleKind.room, room, actions=[]), "the room is muted")
    check(await bob.delete_pushrule("global", nio.PushRuleKind.room, room), "the room is not muted")
    check(await alice.set_displayname("Alice A."), "a name is set")
    name = check(await bob.get_displayname(alice.user_id), "it is read").displayname
    if name != "Alice A.":
        raise SystemExit(f"another name: {name}")
    space = check(await alice.room_create(name="Institute", space=True, visibility=nio.RoomVisibility.public), "a space is made").room_id
    check(await alice.room_put_state(space, "m.space.child", {"via": ["e2e.test"]}, room), "the room is put there")
    check(await bob.room_leave(room), "bob leaves")
    check(await bob.room_forget(room), "bob forgets")
    check(await bob.logout(), "bob logs out")
    for client in (alice, bob):
        await client.close()
    print("done", flush=True)


asyncio.run(main())
