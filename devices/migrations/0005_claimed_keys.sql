-- The keys that were given out lately, under the id of the claim: one that is repeated, since its answer was lost, gets the same.
CREATE TABLE claimed_keys (
    user_id    TEXT NOT NULL,
    device_id  TEXT NOT NULL,
    claim_id   TEXT NOT NULL,
    algorithm  TEXT NOT NULL,
    key_id     TEXT NOT NULL,
    body       TEXT NOT NULL,
    created_ms BIGINT NOT NULL,
    PRIMARY KEY (user_id, device_id, claim_id, algorithm)
);
CREATE INDEX claimed_keys_age ON claimed_keys (created_ms);
