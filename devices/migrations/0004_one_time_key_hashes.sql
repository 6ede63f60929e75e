-- The one-time keys that a device has uploaded, also those that were given out since: none is taken twice.
CREATE TABLE one_time_key_hashes (
    user_id    TEXT NOT NULL,
    device_id  TEXT NOT NULL,
    hash       TEXT NOT NULL,
    created_ms BIGINT NOT NULL,
    PRIMARY KEY (user_id, device_id, hash)
);
CREATE INDEX one_time_key_hashes_age ON one_time_key_hashes (user_id, device_id, created_ms);
