-- The table is the stream's own, compacted: one row for each user who was ever seen.
CREATE TABLE presence (
  user_id TEXT NOT NULL PRIMARY KEY,
  presence TEXT NOT NULL,
  status_msg TEXT NOT NULL,
  last_active BIGINT NOT NULL,
  shard BIGINT NOT NULL,
  pos BIGINT NOT NULL
);
CREATE UNIQUE INDEX presence_pos ON presence (shard, pos);
CREATE INDEX presence_there ON presence (shard) WHERE presence <> 'offline';
