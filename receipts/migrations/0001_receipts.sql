-- The table is the stream's own, compacted: a newer receipt replaces the one before it.
CREATE TABLE receipts (
  room_id TEXT NOT NULL,
  user_id TEXT NOT NULL,
  type TEXT NOT NULL,
  thread_id TEXT NOT NULL,
  event_id TEXT NOT NULL,
  event_pos BIGINT NOT NULL,
  ts BIGINT NOT NULL,
  shard BIGINT NOT NULL,
  pos BIGINT NOT NULL,
  PRIMARY KEY (room_id, user_id, type, thread_id)
);
CREATE UNIQUE INDEX receipts_pos ON receipts (shard, pos);
CREATE INDEX receipts_room ON receipts (room_id, pos);
CREATE INDEX receipts_user ON receipts (user_id);
