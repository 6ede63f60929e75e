CREATE TABLE device_keys (
    user_id   TEXT NOT NULL,
    device_id TEXT NOT NULL,
    body      TEXT NOT NULL,
    PRIMARY KEY (user_id, device_id)
);

CREATE TABLE one_time_keys (
    user_id    TEXT NOT NULL,
    device_id  TEXT NOT NULL,
    algorithm  TEXT NOT NULL,
    key_id     TEXT NOT NULL,
    body       TEXT NOT NULL,
    created_ms BIGINT NOT NULL,
    PRIMARY KEY (user_id, device_id, algorithm, key_id)
);
CREATE INDEX one_time_keys_age ON one_time_keys (user_id, device_id, algorithm, created_ms, key_id);

CREATE TABLE fallback_keys (
    user_id   TEXT NOT NULL,
    device_id TEXT NOT NULL,
    algorithm TEXT NOT NULL,
    key_id    TEXT NOT NULL,
    body      TEXT NOT NULL,
    used      BOOLEAN NOT NULL DEFAULT FALSE,
    PRIMARY KEY (user_id, device_id, algorithm)
);

CREATE TABLE cross_signing_keys (
    user_id TEXT NOT NULL,
    usage   TEXT NOT NULL,
    public  TEXT NOT NULL,
    body    TEXT NOT NULL,
    PRIMARY KEY (user_id, usage)
);

CREATE TABLE key_signatures (
    user_id   TEXT NOT NULL,
    target    TEXT NOT NULL,
    signer    TEXT NOT NULL,
    key_id    TEXT NOT NULL,
    signature TEXT NOT NULL,
    PRIMARY KEY (user_id, target, signer, key_id)
);
CREATE INDEX key_signatures_signer ON key_signatures (signer, key_id);

CREATE TABLE device_lists (
    user_id TEXT PRIMARY KEY,
    shard   BIGINT NOT NULL,
    pos     BIGINT NOT NULL
);
CREATE UNIQUE INDEX device_lists_pos ON device_lists (shard, pos);

CREATE TABLE to_device (
    shard     BIGINT NOT NULL,
    pos       BIGINT NOT NULL,
    user_id   TEXT NOT NULL,
    device_id TEXT NOT NULL,
    sender    TEXT NOT NULL,
    type      TEXT NOT NULL,
    content   TEXT NOT NULL,
    PRIMARY KEY (shard, pos)
);
CREATE INDEX to_device_receiver ON to_device (user_id, device_id, pos);

CREATE TABLE to_device_txns (
    sender     TEXT NOT NULL,
    device_id  TEXT NOT NULL,
    type       TEXT NOT NULL,
    txn_id     TEXT NOT NULL,
    shard      BIGINT NOT NULL,
    created_ms BIGINT NOT NULL,
    PRIMARY KEY (sender, device_id, type, txn_id, shard)
);
CREATE INDEX to_device_txns_age ON to_device_txns (created_ms);

CREATE TABLE key_count_changes (
    user_id   TEXT NOT NULL,
    device_id TEXT NOT NULL,
    shard     BIGINT NOT NULL,
    pos       BIGINT NOT NULL,
    PRIMARY KEY (user_id, device_id)
);
CREATE UNIQUE INDEX key_count_changes_pos ON key_count_changes (shard, pos);

CREATE TABLE backup_versions (
    user_id   TEXT NOT NULL,
    version   BIGINT NOT NULL,
    algorithm TEXT NOT NULL,
    auth_data TEXT NOT NULL,
    etag      BIGINT NOT NULL DEFAULT 0,
    total     BIGINT NOT NULL DEFAULT 0,
    deleted   BOOLEAN NOT NULL DEFAULT FALSE,
    PRIMARY KEY (user_id, version)
);

CREATE TABLE backup_keys (
    user_id         TEXT NOT NULL,
    version         BIGINT NOT NULL,
    room_id         TEXT NOT NULL,
    session_id      TEXT NOT NULL,
    first_index     BIGINT NOT NULL,
    forwarded_count BIGINT NOT NULL,
    is_verified     BOOLEAN NOT NULL,
    session_data    TEXT NOT NULL,
    PRIMARY KEY (user_id, version, room_id, session_id)
);
