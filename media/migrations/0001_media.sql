CREATE TABLE media (
    media_id     TEXT PRIMARY KEY,
    user_id      TEXT NOT NULL,
    upload_name  TEXT NOT NULL DEFAULT '',
    content_type TEXT NOT NULL DEFAULT '',
    size         BIGINT NOT NULL DEFAULT 0,
    sha256       TEXT NOT NULL DEFAULT '',
    created_ms   BIGINT NOT NULL,
    uploaded_ms  BIGINT NOT NULL DEFAULT 0,
    expires_ms   BIGINT NOT NULL DEFAULT 0
);
CREATE INDEX media_user ON media (user_id, created_ms);
CREATE INDEX media_sha256 ON media (sha256) WHERE sha256 <> '';
CREATE INDEX media_pending ON media (user_id) WHERE sha256 = '';
CREATE INDEX media_expiry ON media (expires_ms) WHERE sha256 = '';

CREATE TABLE thumbnails (
    sha256       TEXT NOT NULL,
    width        BIGINT NOT NULL,
    height       BIGINT NOT NULL,
    method       TEXT NOT NULL,
    animated     BOOLEAN NOT NULL,
    blob         TEXT NOT NULL DEFAULT '',
    content_type TEXT NOT NULL DEFAULT '',
    size         BIGINT NOT NULL DEFAULT 0,
    failure      TEXT NOT NULL DEFAULT '',
    created_ms   BIGINT NOT NULL,
    PRIMARY KEY (sha256, width, height, method, animated)
);
