// Package devices owns what the devices of local users need for end-to-end encryption: their keys, one-time and fallback keys,
// cross-signing keys and signatures, key backups, to-device messages, and the stream of changed device lists. It serves the endpoints
// of device management too; the devices themselves are rows of package accounts.
//
// Sending a to-device message, from the request to the row, is this chain of functions. Each is called by the one before it:
//
//	putToDevice           http_todevice.go   reads the request
//	Devices.Send          todevice.go        validates the contents, splits the receivers by shard of the stream "to_device"
//	deliverAtOwner           todevice.go        on the owner of the shard: joins repetitions, loads the record of the transaction
//	write, nextBatch      todevice.go        append the messages in batches and wait until each is stored
//	toDeviceStore.Insert  store_todevice.go  stores the messages with the progress of the delivery, in one transaction
//	mailboxes.onRows      mailbox.go         in each process of /sync: remembers that messages wait
//	Devices.ToDevice      mailbox.go         reads the messages for a /sync
//
// Uploads and claims of one-time keys (onetimekeys.go, claims.go) and the clean-up of removed devices (cleanup.go) go the same way,
// as a keyOperation. Changes of device lists (lists.go) go through the stream "device_lists" as a listChange.
//
// Tables: device_keys, one_time_keys, one_time_key_hashes, fallback_keys, claimed_keys, cross_signing_keys, key_signatures,
// device_lists, device_list_private, to_device, to_device_contents, to_device_txns, key_count_changes, backup_versions, backup_keys.
//
// Streams:
//   - "to_device" (16 shards, key the receiver's user id). A row is a message for a device, or says that the number of a device's
//     one-time or fallback keys changed. Its Data is one letter and the device id: m for a message, k for changed keys; see
//     DecodeToDevice. A message stays in to_device until the device has it; of the changes of keys, key_count_changes keeps the newest
//     of each device.
//   - "device_lists" (8 shards, key the user id). A row says that the keys of the user's devices, the list of devices, a display name,
//     cross-signing keys or signatures changed, for everybody or for the one user who can see it (a user-signing key, signatures on
//     keys of others). It is compacted to the newest change of each user and viewer.
//
// Roles: todevice and devicelists, whose processes share the shards of one stream each. One job runs in one process of the fleet:
// devices.housekeeping.
//
// Invariants:
//   - The owner of the user's shard of "to_device" adds and gives out one-time keys, in the transaction that writes the stream: each key
//     is given out at most once, and no process shows an old count once a change was acknowledged.
//   - An upload stores the hashes of its keys in one_time_key_hashes. A key whose hash is there, and which is not in one_time_keys, was
//     given out: a repeated upload does not add it again. A claim stores its result in claimed_keys, so that a claim that is repeated,
//     because its answer was lost, gets the same key.
//   - A write with an access token is refused if the token does not exist any more when it is stored, and a message for a removed device
//     is not kept. The clean-up of a device goes through the same shards after the device was removed, so it deletes everything that was
//     stored before.
//   - Device keys, cross-signing keys and signatures change in the transaction that writes "device_lists".
//   - The messages of a request are appended in batches, one after another for each shard of receivers. Each batch stores how far the
//     delivery is, so that a repeated request adds only what is missing.
//   - A content in to_device_contents is stored in the transaction of all messages that refer to it.
//
// The main types, in reading order:
//
//	Devices             the domain; Deps are its dependencies, Config is its section of the configuration
//	Delivery            a request to send to-device messages; transaction is its record, progress how far it is
//	message             a to-device message that is not stored yet
//	keyOperation        a change in the stream "to_device": uploadOperation, claimOperation or deviceCleanup
//	mailbox             what a process remembers of one device: where messages wait, and its KeyCounts
//	Claim, ClaimedKey   a request for one key of a device, and the key
//	listChange          a change in the stream "device_lists"; ListChange is its decoded row
//	UserKeys            the public keys of a user as a viewer sees them
//	signingUpload       a validated upload of cross-signing keys; signatureUpload is one of signatures
//	backupVersion       a key backup; backupKey is one session in it
package devices
