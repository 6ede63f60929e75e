-- The table is the stream's own, compacted: one row for each room in which somebody ever typed.
-- users is a JSON list of who types and until when; [] is nobody.
CREATE TABLE typing (
  room_id TEXT NOT NULL PRIMARY KEY,
  users TEXT NOT NULL,
  shard BIGINT NOT NULL,
  pos BIGINT NOT NULL
);
CREATE UNIQUE INDEX typing_pos ON typing (shard, pos);
CREATE INDEX typing_now ON typing (shard) WHERE users <> '[]';
