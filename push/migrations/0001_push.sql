CREATE TABLE pushers (
  user_id TEXT NOT NULL,
  app_id TEXT NOT NULL,
  pushkey TEXT NOT NULL,
  kind TEXT NOT NULL,
  app_name TEXT NOT NULL,
  device_name TEXT NOT NULL,
  profile_tag TEXT NOT NULL,
  lang TEXT NOT NULL,
  data TEXT NOT NULL,
  device_id TEXT NOT NULL,
  set_ms BIGINT NOT NULL,
  PRIMARY KEY (user_id, app_id, pushkey)
);
CREATE INDEX pushers_key ON pushers (app_id, pushkey);

-- Notifications that a gateway did not take yet. shard is that of the room in the events stream.
CREATE TABLE push_outbox (
  user_id TEXT NOT NULL,
  app_id TEXT NOT NULL,
  pushkey TEXT NOT NULL,
  event_id TEXT NOT NULL,
  shard BIGINT NOT NULL,
  made_ms BIGINT NOT NULL,
  next_ms BIGINT NOT NULL,
  tries BIGINT NOT NULL,
  PRIMARY KEY (user_id, app_id, pushkey, event_id)
);
CREATE INDEX push_outbox_due ON push_outbox (shard, next_ms);
