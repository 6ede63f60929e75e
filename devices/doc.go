// Package devices owns what the devices of local users need for end-to-end encryption: their keys,
// one-time and fallback keys, cross-signing keys and signatures, key backups, to-device messages, and the
// news of changed device lists. It serves the endpoints of device management too; the devices themselves
// are rows of package accounts.
//
// Tables: device_keys, one_time_keys, one_time_key_hashes, fallback_keys, claimed_keys, cross_signing_keys, key_signatures,
// device_lists, device_list_private,
// to_device, to_device_contents, to_device_txns, key_count_changes, backup_versions, backup_keys.
//
// Streams:
//   - "to_device" (16 shards, key the receiver's user id). A row is a message for a device, or says that
//     the number of a device's one-time or fallback keys changed. Its Data is one letter and the device
//     id: m for a message, k for changed keys; see DecodeToDevice. Messages are in to_device until the
//     device has them; of the changes of keys the newest of each device stays, in key_count_changes.
//   - "device_lists" (8 shards, key the user id): the keys of the user's devices, the list of devices, a
//     display name, cross-signing keys or signatures changed, for all or for the one user who can see it (a
//     user-signing key, signatures on others' keys). Compacted to the newest change of each user and viewer.
//
// Invariants:
//   - One-time keys are added and given out by the owner of the user's shard of "to_device", in the
//     transaction that writes the stream: each is given out at most once, and no process shows an old count
//     once a change was acknowledged. An upload remembers its keys in one_time_key_hashes: one that is there, and not in
//     one_time_keys, was given out, and a repeated upload does not bring it back. A claim remembers in claimed_keys what it got: one
//     that is
//     repeated, because its answer was lost, gets the same.
//   - What came with an access token that is gone at the commit is refused, and a message for a device that is gone is not kept. The
//     clean-up after a device goes through the same shards, once the device is gone: it sees all that came before.
//   - Device keys, cross-signing keys and signatures change in the transaction that writes "device_lists".
//   - The messages of a request go out in tickets, one after another for each shard of receivers, each with the record
//     of how far the delivery has come, so that a repeated request adds only what is missing.
//   - A content in to_device_contents is written in the transaction of all messages that refer to it.
package devices
