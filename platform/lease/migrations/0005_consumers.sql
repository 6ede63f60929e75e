-- Rows of streams whose work failed in a consumer: they are tried again at next_ms (ms since 1970), before others of their key.
CREATE TABLE parked_rows (
  consumer TEXT NOT NULL,
  shard BIGINT NOT NULL,
  pos BIGINT NOT NULL,
  key TEXT NOT NULL,
  tries BIGINT NOT NULL,
  next_ms BIGINT NOT NULL,
  reason TEXT NOT NULL,
  PRIMARY KEY (consumer, shard, pos)
);
-- Notifications go on from where they were.
INSERT INTO leases (name, machine, incarnation, epoch, pos) SELECT 'consumer/push/00' || SUBSTR(name, 6), -1, 0, epoch, pos FROM leases WHERE name LIKE 'push/%';
