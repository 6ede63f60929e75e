CREATE TABLE users (
    user_id        TEXT PRIMARY KEY,
    password       TEXT NOT NULL DEFAULT '',
    kind           TEXT NOT NULL DEFAULT '',
    appservice     TEXT NOT NULL DEFAULT '',
    admin          BOOLEAN NOT NULL DEFAULT FALSE,
    locked         BOOLEAN NOT NULL DEFAULT FALSE,
    suspended      BOOLEAN NOT NULL DEFAULT FALSE,
    erased         BOOLEAN NOT NULL DEFAULT FALSE,
    farewell       BOOLEAN NOT NULL DEFAULT FALSE,
    created_ms     BIGINT NOT NULL,
    login_ms       BIGINT NOT NULL DEFAULT 0,
    profile_ms     BIGINT NOT NULL DEFAULT 0,
    deactivated_ms BIGINT NOT NULL DEFAULT 0
);
CREATE INDEX users_farewell ON users (user_id) WHERE farewell;
CREATE INDEX users_admin ON users (user_id) WHERE admin;

CREATE TABLE user_devices (
    user_id      TEXT NOT NULL,
    device_id    TEXT NOT NULL,
    display_name TEXT NOT NULL DEFAULT '',
    created_ms   BIGINT NOT NULL,
    seen_ms      BIGINT NOT NULL DEFAULT 0,
    seen_ip      TEXT NOT NULL DEFAULT '',
    user_agent   TEXT NOT NULL DEFAULT '',
    PRIMARY KEY (user_id, device_id)
);

CREATE TABLE tokens (
    id                 BIGINT PRIMARY KEY,
    user_id            TEXT NOT NULL,
    device_id          TEXT NOT NULL,
    access_hash        BYTEA NOT NULL,
    refresh_hash       BYTEA,
    parent             BIGINT NOT NULL DEFAULT 0,
    created_ms         BIGINT NOT NULL,
    expires_ms         BIGINT NOT NULL DEFAULT 0,
    refresh_expires_ms BIGINT NOT NULL DEFAULT 0
);
CREATE UNIQUE INDEX tokens_access ON tokens (access_hash);
CREATE UNIQUE INDEX tokens_refresh ON tokens (refresh_hash) WHERE refresh_hash IS NOT NULL;
CREATE INDEX tokens_device ON tokens (user_id, device_id);
CREATE INDEX tokens_parent ON tokens (parent) WHERE parent <> 0;

CREATE TABLE session_changes (
    user_id TEXT PRIMARY KEY,
    shard   BIGINT NOT NULL,
    pos     BIGINT NOT NULL
);
CREATE UNIQUE INDEX session_changes_pos ON session_changes (shard, pos);

CREATE TABLE interactive_sessions (
    id         TEXT PRIMARY KEY,
    op         TEXT NOT NULL,
    user_id    TEXT NOT NULL DEFAULT '',
    flows      TEXT NOT NULL,
    done       TEXT NOT NULL DEFAULT '',
    token      TEXT NOT NULL DEFAULT '',
    expires_ms BIGINT NOT NULL
);
CREATE INDEX interactive_sessions_expiry ON interactive_sessions (expires_ms);

CREATE TABLE registration_tokens (
    token        TEXT PRIMARY KEY,
    uses_allowed BIGINT NOT NULL DEFAULT 0,
    pending      BIGINT NOT NULL DEFAULT 0,
    completed    BIGINT NOT NULL DEFAULT 0,
    admin        BOOLEAN NOT NULL DEFAULT FALSE,
    label        TEXT,
    created_ms   BIGINT NOT NULL,
    expires_ms   BIGINT NOT NULL DEFAULT 0
);
CREATE UNIQUE INDEX registration_tokens_label ON registration_tokens (label) WHERE label IS NOT NULL;

CREATE TABLE used_nonces (
    nonce      TEXT PRIMARY KEY,
    expires_ms BIGINT NOT NULL
);

CREATE TABLE secrets (
    name  TEXT PRIMARY KEY,
    value BYTEA NOT NULL
);

CREATE TABLE profile_fields (
    user_id TEXT NOT NULL,
    name    TEXT NOT NULL,
    value   TEXT NOT NULL,
    PRIMARY KEY (user_id, name)
);

CREATE TABLE account_data (
    user_id TEXT NOT NULL,
    room_id TEXT NOT NULL,
    type    TEXT NOT NULL,
    content TEXT NOT NULL,
    shard   BIGINT NOT NULL,
    pos     BIGINT NOT NULL,
    PRIMARY KEY (user_id, room_id, type)
);
CREATE UNIQUE INDEX account_data_pos ON account_data (shard, pos);

CREATE TABLE filters (
    user_id   TEXT NOT NULL,
    filter_id TEXT NOT NULL,
    body      TEXT NOT NULL,
    PRIMARY KEY (user_id, filter_id)
);

CREATE TABLE openid_tokens (
    hash       BYTEA PRIMARY KEY,
    user_id    TEXT NOT NULL,
    expires_ms BIGINT NOT NULL
);
CREATE INDEX openid_tokens_expiry ON openid_tokens (expires_ms);
