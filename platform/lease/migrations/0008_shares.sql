-- shares: the incarnation, when that process does not count on being the only one; anything else when it may. Older versions do not say.
ALTER TABLE machines ADD COLUMN shares BIGINT NOT NULL DEFAULT 0;
